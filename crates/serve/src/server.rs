//! A server's life: bound, running, reloaded, ended.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bundle::Shelf;
use futures_util::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use store::Store;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::access::Log;
use crate::audit::Audit;
use crate::auth::{Gate, Passwords};
use crate::config::Settings;
use crate::listener::{self, Speaks};
use crate::proxy::{Policies, Proxy};
use crate::registry;
use crate::room::Room;
use crate::site::{Addresses, Site};
use crate::stock::Stock;
use crate::tls::{self, Certificates};
use crate::{Collection, Config, Result};

/// How long pulls may go on after the server was told to end.
const GRACE: Duration = Duration::from_mins(1);
/// Between looks at certificates and idle uploads.
const HOUSEKEEPING: Duration = Duration::from_secs(30);
/// Descriptors kept for the catalog, uploads, logs.
const RESERVED: u64 = 256;

/// A server that has its addresses.
pub struct Server {
    site: Arc<Site>,
    listeners: Mutex<Vec<(TcpListener, Speaks)>>,
    room: Arc<Room>,
    admin_token: Option<String>,
    names: Vec<String>,
}

impl Server {
    /// Takes the addresses, and makes at the first start what a site needs: its CA, its admin token.
    ///
    /// # Errors
    /// A configuration that cannot be meant, an address in use, files that cannot be read, the store's refusals.
    pub async fn bind(store: Store, config: Config) -> Result<Self> {
        let stock = Stock::Store(store.clone());
        Self::bind_with(store, stock, config).await
    }

    /// The same, to hand out a bundle where its volumes lie; `store` keeps the site's own things only.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub async fn bind_bundle(store: Store, shelf: Arc<Shelf>, config: Config) -> Result<Self> {
        Self::bind_with(store, Stock::Shelf(shelf), config).await
    }

    async fn bind_with(store: Store, stock: Stock, config: Config) -> Result<Self> {
        let names = tls::names(&config)?;
        let main = listener::bind(config.listen)?;
        let plain = config.plain.map(listener::bind).transpose()?;
        let address = |listener: &TcpListener| {
            listener.local_addr().map_err(|source| crate::Error::Listen { address: config.listen, source })
        };
        let addresses = Addresses { main: address(&main)?, plain: plain.as_ref().map(address).transpose()? };
        let settings = settings(&stock, &config, &names, &addresses)?;
        let asks = !settings.upstreams.is_empty();
        let (gate, admin_token) = Gate::open(&store).await?;
        let certificates = Arc::new(Certificates::open(&store, &config, names.clone(), now()).await?);
        let log = config.access_log.as_deref().map(Log::open).transpose()?;
        let descriptors = raise_descriptors();
        let acceptor = TlsAcceptor::from(Arc::new(certificates.server_config(config.client_ca.as_deref())?));
        let audit = Arc::new(Audit::new(store.folder(), config.audit.as_deref()));
        let passwords = Passwords::new()?;
        let most =
            config.connections.min(usize::try_from(descriptors.saturating_sub(RESERVED) / 2).unwrap_or(usize::MAX));
        let open_files = (descriptors / 8).min(1024);
        let patience = config.patience;
        let site = Site::new(
            store,
            stock,
            settings,
            gate,
            passwords,
            audit,
            certificates,
            log,
            addresses,
            patience,
            open_files,
        );
        if asks {
            site.set_proxy(Some(proxy(&site, &config)?));
        }
        let mut listeners = vec![(main, Speaks::Both(acceptor))];
        listeners.extend(plain.map(|plain| (plain, Speaks::Plain)));
        Ok(Self {
            site: Arc::new(site),
            listeners: Mutex::new(listeners),
            room: Arc::new(Room::new(most)),
            admin_token,
            names,
        })
    }

    /// Where it listens, with the port it got.
    pub fn address(&self) -> SocketAddr {
        self.site.addresses.main
    }

    /// Where it listens for plain HTTP alone.
    pub fn plain_address(&self) -> Option<SocketAddr> {
        self.site.addresses.plain
    }

    /// Where others reach what listens on `address`: `HOST:PORT`, by the address that the machine goes out by where it
    /// listens on all of them.
    pub fn reached_at(&self, address: SocketAddr) -> String {
        let ip = if address.ip().is_unspecified() { tls::outside(address.ip()) } else { Some(address.ip()) };
        match ip {
            Some(ip) => SocketAddr::new(ip, address.port()).to_string(),
            None => format!("localhost:{}", address.port()),
        }
    }

    /// From when until when clients take the site's certificate, in seconds since 1970: their clocks must say so. Unknown
    /// of a certificate that was given.
    pub fn validity(&self) -> Option<(i64, i64)> {
        self.site.certificates.validity()
    }

    /// The names and addresses that its certificate is for.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The SHA-256 of the site's CA, `AB:CD:…`, to be compared by people. Of the certificate itself, where that was
    /// given.
    pub fn fingerprint(&self) -> String {
        self.site.certificates.fingerprint()
    }

    /// The SHA-256 of its public key, for `curl --pinnedpubkey`: renewals keep it.
    pub fn pin(&self) -> String {
        self.site.certificates.pin()
    }

    /// The site's CA, PEM; none where the certificate was given.
    pub fn authority_pem(&self) -> Option<String> {
        self.site.certificates.authority_pem()
    }

    /// Where changes and refusals are written down.
    pub fn audit(&self) -> Arc<Audit> {
        Arc::clone(&self.site.audit)
    }

    /// What goes by itself, as the configuration has it now.
    pub fn collection(&self) -> Collection {
        self.site.settings().collection.clone()
    }

    /// The admin token, when this start made it.
    pub fn admin_token(&self) -> Option<&str> {
        self.admin_token.as_deref()
    }

    /// Serves until `shutdown` comes; then takes no more connections, lets running answers end for at most a minute,
    /// and returns. May be called once.
    ///
    /// # Errors
    /// None yet; what goes wrong with one connection ends that one.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) -> Result<()> {
        // Every connection holds a receiver: none is left when all have ended.
        let (closing, _) = watch::channel(false);
        let listeners = self.listeners.lock().await.drain(..).collect::<Vec<_>>();
        let accepting = listeners
            .into_iter()
            .map(|(listener, speaks)| listener::accept(&self.site, listener, speaks, &self.room, &closing));
        let keeping = async {
            let mut tick = tokio::time::interval(HOUSEKEEPING);
            loop {
                tick.tick().await;
                self.keep(now()).await;
            }
        };
        // What is not chosen is dropped, and the listeners with it: from then on connections are refused.
        tokio::select! {
            _ = join_all(accepting) => {}
            () = keeping => {}
            () = shutdown => {}
        }
        closing.send_replace(true);
        if timeout(GRACE, closing.closed()).await.is_err() {
            tracing::warn!("some answers were still running after {} s, and were cut off", GRACE.as_secs());
        }
        self.site.write_pulls().await;
        Ok(())
    }

    /// Does what falls due at `now` (seconds since 1970): makes the certificate anew when it grows old,
    /// reads one that was given when its files changed, removes uploads that nobody goes on with, and writes down what was
    /// pulled. [`Server::run`]
    /// does it every half minute; tests say what time it is.
    pub async fn keep(&self, now: i64) {
        self.site.certificates.refresh(now);
        registry::expire_uploads(&self.site, now).await;
        self.site.write_pulls().await;
    }

    /// Takes another configuration while running: certificates, names, aliases, order, who may read. Addresses stay.
    ///
    /// # Errors
    /// As [`Server::bind`]; then everything stays as it was.
    pub async fn reload(&self, config: &Config) -> Result<()> {
        let names = tls::names(config)?;
        let settings = settings(self.site.stock(), config, &names, &self.site.addresses)?;
        let (gate, _) = Gate::open(self.site.store()).await?;
        let proxy = if settings.upstreams.is_empty() { None } else { Some(proxy(&self.site, config)?) };
        self.site.certificates.reload(self.site.store(), config, names, now()).await?;
        self.site.set_proxy(proxy);
        self.site.set(settings, gate);
        Ok(())
    }

    /// Reads the site's secrets and accounts again, and nothing else: who was let in or out, or a renewed CA, must not wait for a mistake in the
    /// configuration to be mended.
    ///
    /// # Errors
    /// When the catalog does not answer.
    pub async fn reload_secrets(&self) -> Result<()> {
        let (gate, _) = Gate::open(self.site.store()).await?;
        self.site.set_gate(gate);
        self.site.certificates.reload_authority(self.site.store(), now()).await?;
        Ok(())
    }
}

fn settings(stock: &Stock, config: &Config, names: &[String], addresses: &Addresses) -> Result<Settings> {
    let settings = Settings::new(config, names, &ports(addresses))?;
    // A bundle that is served where it lies takes nothing in.
    let upstreams = if stock.is_fixed().is_some() { Policies::default() } else { settings.upstreams };
    Ok(Settings { upstreams, ..settings })
}

/// The door to the upstreams.
fn proxy(site: &Site, config: &Config) -> Result<Arc<Proxy>> {
    let (upstreams, metrics) = (config.upstreams.clone().checked()?, Arc::clone(&site.metrics));
    Ok(Arc::new(Proxy::new(site.store().clone(), &upstreams, &config.surroundings, metrics)?))
}

/// Seconds since 1970.
fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn ports(addresses: &Addresses) -> Vec<u16> {
    std::iter::once(addresses.main).chain(addresses.plain).map(|address| address.port()).collect()
}

/// Raises the soft limit of open files to the hard one, and returns what it is.
pub fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Refused, the old limit stands.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20)
}
