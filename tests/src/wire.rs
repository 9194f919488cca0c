//! HTTP as nobody should speak it: a connection that takes any bytes, at any pace, and reads what is answered.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::http::{self, Answer};
use crate::naru::Serving;

/// For what never comes; nothing is asserted about time.
const PATIENCE: Duration = Duration::from_mins(3);

/// Whom a TLS client trusts, and what it offers.
#[derive(Clone, Debug)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// The site's CA, and these protocols in ALPN.
    ///
    /// # Errors
    /// When the server does not hand its CA out.
    pub fn of(serving: &Serving, protocols: &[&str]) -> Result<Self> {
        let pem = http::get(&serving.url("/ca.crt"))?.body;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = versions.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Ok(Self(Arc::new(config)))
    }
}

enum Stream {
    Plain(TcpStream),
    Secure(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// A connection.
pub struct Wire {
    stream: Stream,
    /// What came, and was not read as an answer yet.
    came: Vec<u8>,
}

impl Wire {
    /// Connects to `HOST:PORT`.
    ///
    /// # Errors
    /// When nobody takes it.
    pub fn plain(address: &str) -> Result<Self> {
        Ok(Self { stream: Stream::Plain(connect(address)?), came: Vec::new() })
    }

    /// The same by TLS; its handshake is made with the first bytes.
    ///
    /// # Errors
    /// When nobody takes it.
    pub fn secure(address: &str, trust: &Trust) -> Result<Self> {
        let name = ServerName::try_from("localhost")?;
        let connection = ClientConnection::new(Arc::clone(&trust.0), name)?;
        let stream = StreamOwned::new(connection, connect(address)?);
        Ok(Self { stream: Stream::Secure(Box::new(stream)), came: Vec::new() })
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// When nobody takes them.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(bytes.as_ref()),
            Stream::Secure(stream) => stream.write_all(bytes.as_ref()).and_then(|()| stream.flush()),
        }
    }

    /// Sends `piece` over and over from another thread, until so many bytes went or nobody takes them. Of a plain
    /// connection.
    ///
    /// # Errors
    /// Of one by TLS.
    pub fn flood(&self, piece: Vec<u8>, most: u64) -> Result<std::thread::JoinHandle<u64>> {
        let Stream::Plain(stream) = &self.stream else { anyhow::bail!("a flood goes over plain HTTP") };
        let mut stream = stream.try_clone()?;
        Ok(std::thread::spawn(move || {
            let mut sent = 0;
            while sent < most && stream.write_all(&piece).is_ok() {
                sent += piece.len() as u64;
            }
            sent
        }))
    }

    /// Hangs up.
    pub fn close(&self) {
        let stream = match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Secure(stream) => &stream.sock,
        };
        let _ = stream.shutdown(Shutdown::Both);
    }

    /// Reads one answer.
    ///
    /// # Errors
    /// When none comes, or not whole.
    pub fn answer(&mut self) -> Result<Answer> {
        self.answer_with(true)
    }

    /// Reads the answer to HEAD.
    ///
    /// # Errors
    /// When none comes, or not whole.
    pub fn answer_to_head(&mut self) -> Result<Answer> {
        self.answer_with(false)
    }

    fn answer_with(&mut self, body: bool) -> Result<Answer> {
        let (answer, head) = loop {
            if let Some(found) = http::head_of(&self.came) {
                break found;
            }
            self.more()?;
        };
        let length = answer.header("content-length").filter(|_| body).map(str::parse).transpose()?.unwrap_or(0);
        while self.came.len() < head + length {
            self.more()?;
        }
        let body = self.came.drain(..head + length).skip(head).collect();
        Ok(Answer { body, ..answer })
    }

    fn more(&mut self) -> Result<()> {
        let mut buffer = [0; 16 * 1024];
        let count = self.read(&mut buffer).context("waiting for an answer")?;
        ensure!(count > 0, "the connection ended, after {:?}", String::from_utf8_lossy(&self.came));
        self.came.extend_from_slice(&buffer[..count]);
        Ok(())
    }

    /// Everything that comes until the server hangs up, in whatever way.
    ///
    /// # Errors
    /// When it does not.
    pub fn rest(&mut self) -> Result<String> {
        let mut all = std::mem::take(&mut self.came);
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => all.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(error).context(format!("it does not hang up, after {}", String::from_utf8_lossy(&all)));
                }
                Err(_) => break,
            }
        }
        Ok(String::from_utf8_lossy(&all).into_owned())
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.read(buffer),
            Stream::Secure(stream) => stream.read(buffer),
        }
    }
}

fn connect(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}
