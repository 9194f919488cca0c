use base64::engine::general_purpose::STANDARD;

use super::*;

fn gate() -> Gate {
    gate_of(b"secret", Vec::new())
}

fn gate_of(admin: &[u8], accounts: Vec<store::Account>) -> Gate {
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"key");
    Gate { admin: Digest::of(admin), key, accounts: Accounts::new(accounts) }
}

/// Waits for what waits for nobody.
fn identify(gate: &Gate, headers: &HeaderMap, peer: &Peer, settings: &Settings) -> Result<Caller, Refusal> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(gate.identify(headers, peer, settings, &Passwords::new().unwrap()))
}

fn peer(remote: &str, tls: bool) -> Peer {
    Peer { remote: remote.parse().unwrap(), local: "10.0.0.1:5000".parse().unwrap(), tls, certificate: None }
}

fn headers(value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, value.parse().unwrap());
    headers
}

fn basic(word: &str) -> HeaderMap {
    headers(&format!("Basic {}", STANDARD.encode(format!("any:{word}"))))
}

#[test]
fn who_is_who() {
    let (gate, near, settings) = (gate(), peer("127.0.0.1:9", false), Settings::default());
    let who =
        |headers: &HeaderMap| identify(&gate, headers, &near, &settings).map_err(|refusal| refusal.status.as_u16());
    let now = jiff::Timestamp::now().as_second();
    assert_eq!(who(&HeaderMap::new()).unwrap(), Caller::Anonymous);
    assert_eq!(who(&basic("secret")).unwrap(), Caller::Admin);
    assert_eq!(who(&basic("wrong")).unwrap_err(), 401);
    assert_eq!(who(&headers("Bearer secret")).unwrap(), Caller::Admin);
    let token = |caller, now| headers(&format!("Bearer {}", gate.token(&caller, now)));
    assert_eq!(who(&token(Caller::Admin, now)).unwrap(), Caller::Admin);
    assert_eq!(who(&token(Caller::Anonymous, now)).unwrap(), Caller::AnonymousWithToken);
    assert_eq!(who(&token(Caller::Admin, now - 2 * TOKEN_SECONDS)).unwrap_err(), 401);
    let forged =
        format!("Bearer {}.{}", URL_SAFE_NO_PAD.encode(format!("admin:{}", now + 9)), URL_SAFE_NO_PAD.encode([0; 32]));
    assert_eq!(who(&headers(&forged)).unwrap_err(), 401);
    assert_eq!(who(&headers("Digest x")).unwrap_err(), 401);
    let other = gate_of(b"new", Vec::new());
    let old = token(Caller::Admin, now);
    assert!(identify(&other, &old, &near, &settings).is_err(), "a new admin token ends the old one's");
}

#[test]
fn nothing_secret_in_the_clear() {
    let (gate, far) = (gate(), peer("10.0.0.9:9", false));
    let settings = Settings::default();
    assert_eq!(identify(&gate, &basic("secret"), &far, &settings).unwrap_err().status, 403);
    assert_eq!(identify(&gate, &headers("Bearer secret"), &far, &settings).unwrap_err().status, 403);
    let now = jiff::Timestamp::now().as_second();
    let anonymous = headers(&format!("Bearer {}", gate.token(&Caller::Anonymous, now)));
    assert!(identify(&gate, &anonymous, &far, &settings).is_ok());
    assert!(identify(&gate, &basic("secret"), &peer("10.0.0.9:9", true), &settings).is_ok());
    assert!(identify(&gate, &basic("secret"), &peer("[::ffff:127.0.0.1]:9", false), &settings).is_ok());
    let allowed = Settings { plain_auth: true, ..Settings::default() };
    assert!(identify(&gate, &basic("secret"), &far, &allowed).is_ok());
}

proptest::proptest! {
    #[test]
    fn never_panics(text in "(Basic |Bearer )?[ -~]{0,60}") {
        let _ = identify(&gate(), &headers(&text), &peer("127.0.0.1:9", false), &Settings::default());
    }
}
