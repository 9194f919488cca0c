//! Keys of a store: its own, which signs what it packs, and those whose bundles it loads.

use store::Store;

use crate::{Error, PublicKey, Result, SecretKey};

const OWN: &str = "key/bundle";
const TRUSTED: &str = "key/trusted/";

/// The store's own key, made when it is first asked for.
pub async fn of_store(store: &Store) -> Result<SecretKey> {
    let seed = match store.document(OWN).await? {
        Some(seed) => seed,
        None => store.document_once(OWN, SecretKey::generate()?.seed()).await?,
    };
    SecretKey::from_seed(&seed)
}

/// Gives a store the own key of another, so that both sign as one.
pub async fn set_own(store: &Store, key: &SecretKey) -> Result<()> {
    Ok(store.set_document(OWN, Some(key.seed())).await?)
}

/// A key that a store trusts, with the name it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted {
    /// What the operator calls it.
    pub name: String,
    /// The key.
    pub key: PublicKey,
}

/// From now on bundles by this key are loaded, and none by keys that are not trusted.
pub async fn trust(store: &Store, key: &PublicKey, name: &str) -> Result<()> {
    if name.is_empty() || name.len() > 100 || name.chars().any(char::is_control) {
        return Err(Error::Key { what: format!("`{name}`"), why: "its name is empty, or no name".to_owned() });
    }
    let document = format!("{TRUSTED}{name}");
    Ok(store.set_document(&document, Some(key.to_line().as_bytes())).await?)
}

/// Takes the trust back; says whether there was such a name.
pub async fn distrust(store: &Store, name: &str) -> Result<bool> {
    let document = format!("{TRUSTED}{name}");
    let was = store.document(&document).await?.is_some();
    store.set_document(&document, None).await?;
    Ok(was)
}

/// The keys that are trusted, by name. None: the first bundle of anybody is loaded, and its key shown.
pub async fn trusted(store: &Store) -> Result<Vec<Trusted>> {
    let mut keys = Vec::new();
    for document in store.documents(TRUSTED).await? {
        let name = document.strip_prefix(TRUSTED).unwrap_or(&document).to_owned();
        let text = store.document(&document).await?.unwrap_or_default();
        keys.push(Trusted { key: PublicKey::parse(&String::from_utf8_lossy(&text), &name)?, name });
    }
    Ok(keys)
}
