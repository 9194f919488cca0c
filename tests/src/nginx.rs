//! An upstream for files: nginx.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::folder::Folder;
use crate::process::{Daemon, find, free_port};

/// One nginx on loopback that hands out a folder.
#[derive(Debug)]
pub struct Nginx {
    port: u16,
    root: PathBuf,
    #[expect(dead_code, reason = "it runs until it is dropped")]
    daemon: Daemon,
}

impl Nginx {
    /// Starts one that hands out the folder of that name.
    ///
    /// # Errors
    /// With its log, when it does not come up.
    pub fn start(folder: &Folder, name: &str) -> Result<Self> {
        let port = free_port()?;
        let root = folder.make(name)?;
        // Its workers are not root, and the journey's folder lets nobody else in.
        let configuration = format!(
            "daemon off; worker_processes 1; error_log stderr warn; pid {work}/nginx.pid;\n{user}\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; sendfile on; types {{ }} default_type application/octet-stream;\n\
             client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi;\n\
             uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;\n\
             server {{ listen 127.0.0.1:{port}; root {root}; autoindex on; }} }}\n",
            work = folder.make(format!("{name}-nginx"))?.display(),
            user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" },
            root = root.display(),
        );
        let configuration = folder.write(format!("{name}.conf"), configuration)?;
        let mut command = Command::new(find("nginx").context("nginx is not here")?);
        command.arg("-e").arg("stderr").arg("-c").arg(configuration);
        let mut daemon = Daemon::start(&mut command, &folder.join(format!("{name}.log")))?;
        daemon.wait_for("nginx", |_| crate::http::get(&format!("http://127.0.0.1:{port}/")).ok())?;
        Ok(Self { port, root, daemon })
    }

    /// Its address: `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The folder that it hands out.
    pub fn root(&self) -> &Path {
        &self.root
    }
}
