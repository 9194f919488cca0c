//! Who we are, when an upstream asks.
//!
//! Nothing is sent before a server challenges us: [`challenge`] reads what it wants, [`credentials`] finds whose name
//! to give, [`token`] gets the token where one is wanted. Tokens are kept for each host and repository, and fetched
//! once however many wait for one.

mod challenge;
pub(crate) mod credentials;
mod token;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue};
use tokio::sync::Mutex as AsyncMutex;
use url::Url;

use challenge::Challenge;
use credentials::{Credential, Credentials};
use token::{Held, Wanted};

use crate::error::{Error, Result, shown};
use crate::transport::Transport;

/// What access is wanted to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Access {
    /// The host, as `upstreams:` names it. Its credentials go nowhere else.
    pub(crate) host: String,
    /// The repository's name there; none for files, which docker's credentials are not meant for.
    pub(crate) name: Option<String>,
    /// Whether something is to be put there.
    pub(crate) pushes: bool,
}

type Slot = Arc<AsyncMutex<Option<Held>>>;

/// What one answer of a server is about. Images and plain files of a host are guarded by different doors, and what was
/// said over TLS is not repeated where others listen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Door {
    host: String,
    is_repository: bool,
    is_confidential: bool,
}

impl Door {
    fn of(transport: &Transport, access: &Access, url: &Url) -> Self {
        Self {
            host: access.host.clone(),
            is_repository: access.name.is_some(),
            is_confidential: transport.is_confidential(url),
        }
    }
}

/// Every credential and token of this process.
pub(crate) struct Authority {
    credentials: Credentials,
    /// What a host wanted the last time, so that the next repository need not be refused first.
    challenges: Mutex<HashMap<Door, Challenge>>,
    held: Mutex<HashMap<(Access, bool), Slot>>,
}

impl Authority {
    pub(crate) fn new(credential_files: Vec<PathBuf>) -> Self {
        let (challenges, held) = (Mutex::default(), Mutex::default());
        Self { credentials: Credentials::new(credential_files), challenges, held }
    }

    /// What is known to be wanted: a kept token, or a new one where the host is known to ask for them.
    pub(crate) async fn ready(&self, transport: &Transport, access: &Access, url: &Url) -> Result<Option<HeaderValue>> {
        let door = Door::of(transport, access, url);
        let known = self.challenges.lock().unwrap_or_else(PoisonError::into_inner).get(&door).cloned();
        let Some(challenge) = known else { return Ok(None) };
        let slot = self.slot(access, door.is_confidential);
        let mut slot = slot.lock().await;
        if slot.as_ref().is_none_or(|held| !held.is_fresh()) {
            *slot = self.meet(transport, access, url, &challenge).await?;
        }
        Ok(slot.as_ref().map(|held| held.header.clone()))
    }

    /// Meets the challenge of a 401. `used` is what was sent and refused; `None` when there is nothing else to send.
    pub(crate) async fn answer(
        &self,
        transport: &Transport,
        access: &Access,
        url: &Url,
        headers: &HeaderMap,
        used: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>> {
        let lines = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let Some(mut challenge) = challenge::choose(lines) else { return Ok(None) };
        let door = Door::of(transport, access, url);
        let mut general = Challenge::Basic;
        if let Challenge::Bearer { realm, service, .. } = &mut challenge {
            if let Ok(absolute) = url.join(realm) {
                *realm = absolute.into();
            }
            // The scope is this repository's.
            general = Challenge::Bearer { realm: realm.clone(), service: service.clone(), scope: None };
        }
        self.challenges.lock().unwrap_or_else(PoisonError::into_inner).insert(door.clone(), general);
        let slot = self.slot(access, door.is_confidential);
        let mut slot = slot.lock().await;
        // Somebody else may have been here while we waited.
        if let Some(held) = slot.as_ref().filter(|held| held.is_fresh() && Some(&held.header) != used) {
            return Ok(Some(held.header.clone()));
        }
        *slot = self.meet(transport, access, url, &challenge).await?;
        Ok(slot.as_ref().map(|held| held.header.clone()).filter(|header| Some(header) != used))
    }

    fn slot(&self, access: &Access, is_confidential: bool) -> Slot {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(held.entry((access.clone(), is_confidential)).or_default())
    }

    async fn meet(
        &self,
        transport: &Transport,
        access: &Access,
        url: &Url,
        challenge: &Challenge,
    ) -> Result<Option<Held>> {
        let credential = self.credential(transport, access).await?;
        if credential.is_some() && !transport.is_confidential(url) {
            return Err(refuse_plain(url, access));
        }
        let Challenge::Bearer { realm, service, scope } = challenge else {
            return Ok(credential.as_ref().and_then(Credential::basic).map(|header| Held { header, until: None }));
        };
        let wrong = |why: String| Error::Protocol { url: shown(url), why };
        let mut realm = url.join(realm).map_err(|error| wrong(format!("its token server `{realm}`: {error}")))?;
        if !matches!(realm.scheme(), "http" | "https") || !realm.has_host() {
            return Err(wrong(format!("its token server's scheme is `{}`", realm.scheme())));
        }
        let _ = realm.set_username("");
        let _ = realm.set_password(None);
        realm.set_fragment(None);
        if url.scheme() == "https" && !transport.is_confidential(&realm) {
            return Err(wrong(format!("its token server {} is plain HTTP", shown(&realm))));
        }
        if credential.is_some() && !transport.is_confidential(&realm) {
            return Err(refuse_plain(&realm, access));
        }
        let actions = if access.pushes { "pull,push" } else { "pull" };
        let own = access.name.as_ref().map(|name| format!("repository:{name}:{actions}"));
        // Whoever looks first what is there would be challenged for that alone.
        let scope = scope.as_deref().filter(|scope| !access.pushes || scope.contains("push")).or(own.as_deref());
        let wanted = Wanted { host: &access.host, realm, service: service.as_deref(), scope };
        token::fetch(transport, &wanted, credential.as_ref()).await.map(Some)
    }

    async fn credential(&self, transport: &Transport, access: &Access) -> Result<Option<Credential>> {
        if let Some(upstream) = transport.upstream(&access.host)
            && let Some(credential) = credentials::configured(&access.host, upstream)?
        {
            return Ok(Some(credential));
        }
        match &access.name {
            Some(name) => self.credentials.of(&access.host, name).await,
            None => Ok(None),
        }
    }
}

fn refuse_plain(url: &Url, access: &Access) -> Error {
    Error::Unauthorized {
        url: shown(url),
        host: access.host.clone(),
        detail: format!("credentials are not sent over plain HTTP (upstreams.{}.insecure allows it)", access.host),
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}
