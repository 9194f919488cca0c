//! Passwords: slow to try for whoever guesses, quick for whoever was right a moment ago.
//!
//! docker sends the password with every request, and an argon2 hash takes 12 MiB and tens of milliseconds. So two are
//! computed at a time, what was right is remembered for a while by a keyed hash, and an address or a name that was wrong
//! too often is told to wait before anything is computed. What was right lately is not held up by others' guesses.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::{hmac, rand};
use http::StatusCode;
use moka::sync::Cache;
use tokio::sync::Semaphore;

use crate::refusal::Refusal;
use crate::{Error, Result};

/// Hashes that are computed at a time, 12 MiB each: the server's memory is bounded.
const AT_A_TIME: usize = 2;
/// How long a password that was right needs no hash.
const REMEMBERED: Duration = Duration::from_mins(5);
/// Passwords that are remembered.
const MOST_REMEMBERED: u64 = 10_000;
/// How long wrong passwords count.
const COUNTED: Duration = Duration::from_mins(1);
/// Wrong ones from one address before it has to wait.
const AN_ADDRESS: u32 = 20;
/// Wrong ones for one name.
const A_NAME: u32 = 50;
/// What a name that nobody has is compared with: as slow as one that somebody has, and never right.
const NOBODYS: &str =
    "$argon2id$v=19$m=12288,t=3,p=1$bmFydW5hcnVuYXJ1bmFydQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// The most work that a bcrypt hash from elsewhere may ask for: the exponent of two, some 0.5 s.
const BCRYPT_COST: u8 = 13;

/// What was tried lately.
pub(crate) struct Passwords {
    right: Cache<[u8; 32], ()>,
    key: hmac::Key,
    wrong: Cache<String, Arc<AtomicU32>>,
    room: Semaphore,
}

impl Passwords {
    pub(crate) fn new() -> Result<Self> {
        let mut key = [0; 32];
        rand::fill(&mut key).map_err(|_| Error::Random)?;
        Ok(Self {
            right: Cache::builder().max_capacity(MOST_REMEMBERED).time_to_live(REMEMBERED).build(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            wrong: Cache::builder().max_capacity(MOST_REMEMBERED).time_to_live(COUNTED).build(),
            room: Semaphore::new(AT_A_TIME),
        })
    }

    /// Whether `password` is the one whose hash is `hash`; `None`: nobody is called `name`, or has no password.
    ///
    /// # Errors
    /// 429, when too many were wrong lately.
    pub(crate) async fn is_right(
        &self,
        hash: Option<&str>,
        name: &str,
        password: &str,
        from: IpAddr,
    ) -> Result<bool, Refusal> {
        // With the hash: another password ends what was remembered of the one before.
        let tag = hmac::sign(&self.key, format!("{}\n{password}", hash.unwrap_or_default()).as_bytes());
        let tag: Option<[u8; 32]> = tag.as_ref().try_into().ok();
        if tag.is_some_and(|tag| self.right.contains_key(&tag)) {
            return Ok(true);
        }
        // Counted before it is known: a thousand at once are a thousand.
        // Names that nobody can have are one: what is counted is bounded.
        let name = super::valid_account_name(name).map_or("", |()| name);
        let tries = [(place(from), AN_ADDRESS), (format!("name {name}"), A_NAME)];
        let counted = tries.map(|(key, most)| (self.wrong.get_with(key, Arc::default), most));
        for (tries, most) in &counted {
            if tries.fetch_add(1, Ordering::AcqRel) >= *most {
                return Err(too_many());
            }
        }
        let (hash, password) = (hash.unwrap_or(NOBODYS).to_owned(), password.to_owned());
        let _one = self.room.acquire().await.map_err(Refusal::inside)?;
        let compared = tokio::task::spawn_blocking(move || is_of(&password, &hash)).await;
        let is_right = compared.map_err(Refusal::inside)?;
        if is_right {
            for (tries, _) in &counted {
                tries.fetch_sub(1, Ordering::AcqRel);
            }
            if let Some(tag) = tag {
                self.right.insert(tag, ());
            }
        }
        Ok(is_right)
    }
}

/// Where guesses are counted: one address, or the /64 that somebody with IPv6 has to himself.
fn place(from: IpAddr) -> String {
    match from.to_canonical() {
        IpAddr::V4(address) => format!("from {address}"),
        IpAddr::V6(address) => format!("from {:x}/64", u128::from(address) >> 64),
    }
}

fn too_many() -> Refusal {
    let mut refusal = Refusal::new(
        StatusCode::TOO_MANY_REQUESTS,
        "TOOMANYREQUESTS",
        "too many wrong passwords came for this name or from this address; wait a minute",
    );
    refusal.wait = COUNTED.as_secs();
    refusal.denied = true;
    refusal
}

/// Compares in constant time, as both libraries do.
fn is_of(password: &str, hash: &str) -> bool {
    if hash.starts_with("$2") {
        return bcrypt::verify(password, hash).unwrap_or(false);
    }
    Argon2::default().verify_password(password.as_bytes(), hash).is_ok()
}

/// The hash of a new password: argon2id with 12 MiB and three passes (OWASP's second choice, as its first would take
/// more than the server's bounded memory has room for).
///
/// # Errors
/// When the system has no randomness.
pub fn hash(password: &str) -> Result<String> {
    let mut salt = [0; 16];
    rand::fill(&mut salt).map_err(|_| Error::Random)?;
    let params = Params::new(12 * 1024, 3, 1, None).map_err(|_| Error::Password("cannot be hashed"))?;
    let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash = hasher.hash_password_with_salt(password.as_bytes(), &salt);
    Ok(hash.map_err(|_| Error::Password("is too long"))?.to_string())
}

/// Reads a file of `htpasswd`: `NAME:HASH` a line, comments and empty lines left out.
///
/// # Errors
/// [`Error::Htpasswd`] with the line's number: of a hash that is not bcrypt's, or too costly; of a name that no account
/// can have, or that stands there twice.
pub fn read_htpasswd(text: &str) -> Result<Vec<(String, String)>> {
    let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let mut first = HashMap::new();
    let mut read = |index: usize, line| {
        let (name, hash) = read_line(line)?;
        // Of two passwords nobody can tell which is meant.
        match first.insert(name.clone(), index + 1) {
            Some(before) => Err(format!("{name} stands in line {before} already")),
            None => Ok((name, hash)),
        }
    };
    lines.map(|(index, line)| read(index, line).map_err(|why| Error::Htpasswd { line: index + 1, why })).collect()
}

fn read_line(line: &str) -> Result<(String, String), String> {
    let (name, hash) = line.split_once(':').ok_or("it is not NAME:HASH")?;
    super::valid_account_name(name).map_err(|_| format!("`{name}` is not a name that an account can have"))?;
    let cost = hash.get(..7).and_then(|head| match head.as_bytes() {
        [b'$', b'2', b'a' | b'b' | b'x' | b'y', b'$', tens, ones, b'$'] => {
            String::from_utf8(vec![*tens, *ones]).ok()?.parse::<u8>().ok()
        }
        _ => None,
    });
    let Some(cost) = cost.filter(|_| hash.len() == 60) else {
        let kind = match hash {
            hash if hash.starts_with("{SHA}") => "SHA-1 without a salt ({SHA})",
            hash if hash.starts_with("$apr1$") => "apr1 (MD5)",
            hash if hash.starts_with("$1$") => "MD5",
            hash if hash.starts_with("$5$") || hash.starts_with("$6$") => "SHA-crypt",
            _ => "no hash that naru knows",
        };
        return Err(format!("the password of `{name}` is kept as {kind}, which is not taken"));
    };
    if !(4..=BCRYPT_COST).contains(&cost) {
        return Err(format!("the password of `{name}` has cost {cost}; at most {BCRYPT_COST} is taken"));
    }
    Ok((name.to_owned(), hash.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BCRYPT: &str = "$2a$04$9qV92tpa9g9SmuxEgSj0VOgDNdpHlDzkSfJoowqYL3JaIqrV0L8qC";

    #[test]
    fn what_is_hashed_is_found_right() {
        let made = hash("geheim").unwrap();
        assert!(made.starts_with("$argon2id$v=19$m=12288,t=3,p=1$"), "{made}");
        assert!(is_of("geheim", &made) && !is_of("geheimx", &made) && !is_of("", &made));
        assert_ne!(made, hash("geheim").unwrap());
        assert!(!is_of("", NOBODYS) && argon2::password_hash::phc::PasswordHash::new(NOBODYS).is_ok());
    }

    #[test]
    fn bcrypt_is_read_and_weaker_hashes_are_named() {
        let file = format!("# staff\n\nalice:{BCRYPT}\n");
        assert_eq!(read_htpasswd(&file).unwrap(), [("alice".to_owned(), BCRYPT.to_owned())]);
        let costly = BCRYPT.replace("$04$", "$31$");
        for (line, why) in [
            ("bob:{SHA}fEqNCco3Yq9h5ZUglD3CZJT4lBs=", "{SHA}"),
            ("bob:$apr1$abcdefgh$0123456789012345678901", "apr1"),
            ("bob:plain", "no hash"),
            ("bob", "NAME:HASH"),
            ("b ob:x", "`b ob`"),
            (&format!("bob:{costly}"), "cost 31"),
            (&format!("alice:{BCRYPT}"), "alice stands in line "),
        ] {
            let error = read_htpasswd(&format!("{file}{line}")).unwrap_err().to_string();
            assert!(error.contains("line 4") && error.contains(why), "{error}");
        }
    }

    #[tokio::test]
    async fn who_guesses_waits_and_who_was_right_does_not() {
        let passwords = Passwords::new().unwrap();
        let made = hash("geheim").unwrap();
        let from: IpAddr = "10.0.0.1".parse().unwrap();
        let ask = |word: &'static str, from| passwords.is_right(Some(BCRYPT), "alice", word, from);
        assert!(passwords.is_right(Some(&made), "alice", "geheim", from).await.unwrap());
        for _ in 0..AN_ADDRESS {
            assert!(!ask("wrong", from).await.unwrap());
        }
        let refused = ask("wrong", from).await.unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.wait), (429, 60));
        assert!(passwords.is_right(Some(&made), "alice", "geheim", from).await.unwrap(), "it was right before");
        let elsewhere = "10.0.0.2".parse().unwrap();
        assert!(!ask("wrong", elsewhere).await.unwrap());
        let more = (0..A_NAME).map(|n| IpAddr::from([10, 0, 1, u8::try_from(n).unwrap()]));
        let mut refused = 0;
        for from in more {
            refused += u32::from(ask("wrong", from).await.is_err());
        }
        assert!(refused > 0, "the name is counted too");
    }

    #[test]
    fn neighbours_in_ipv6_are_one() {
        let at = |text: &str| place(text.parse().unwrap());
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[a-z:$0-9{}\\n#]{0,90}") {
            let _ = read_htpasswd(&text);
        }
    }
}
