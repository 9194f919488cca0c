//! One port, two protocols.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::{Certificate, Client, Method};
use serve::{Config, Error, Patience, Server};
use store::Store;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Site, on_loopback};

fn trusting(pem: &str) -> Client {
    let ca = Certificate::from_pem(pem.as_bytes()).unwrap();
    Client::builder().no_proxy().tls_certs_only([ca]).build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_plain_on_one_port() {
    let site = Site::with(Config { san: vec!["10.96.0.50".to_owned()], ..on_loopback() }).await;
    // More than a few records, whichever way they are read.
    let text = "tls ".repeat(200_000);
    let image = site.image("docker.io", "library/app", "1", &text).await;
    let address = site.server.address();
    let client = trusting(&site.server.authority_pem().unwrap());
    let port = address.port();
    for url in [format!("https://{address}"), format!("https://localhost:{port}"), site.url.clone()] {
        let blob = format!("{url}/v2/library/app/blobs/{}?ns=docker.io", image.layer);
        let answer = client.get(blob).send().await.unwrap();
        assert_eq!(answer.version(), reqwest::Version::HTTP_11);
        assert_eq!(answer.text().await.unwrap(), text, "{url}");
    }
    let ping = client.get(format!("https://{address}/v2/")).send().await.unwrap();
    let challenge = ping.headers()["www-authenticate"].to_str().unwrap();
    assert!(challenge.starts_with(&format!("Bearer realm=\"https://{address}/token\"")), "{challenge}");
    // Who does not know the CA does not get through.
    assert!(site.client.get(format!("https://{address}/")).send().await.is_err());
    assert!(site.server.names().contains(&"10.96.0.50".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_alone_tells_a_tls_client() {
    let site = Site::with(Config { plain: "127.0.0.1:0".parse().ok(), ..on_loopback() }).await;
    site.image("docker.io", "library/app", "1", "x").await;
    let plain = site.server.plain_address().unwrap();
    let url = format!("http://{plain}/v2/library/app/manifests/1?ns=docker.io");
    assert_eq!(site.client.get(url).send().await.unwrap().status(), 200);
    // The beginning of a TLS hello.
    // What it says of clients' configurations is of the port that has TLS.
    let told = site.client.get(format!("http://{plain}/setup/containerd")).send().await.unwrap().bytes().await.unwrap();
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(told.contains(&format!("https://127.0.0.1:{}", site.server.address().port())), "{told}");
    assert!(!told.contains(&format!(":{}", plain.port())), "{told}");
    let mut stream = TcpStream::connect(plain).await.unwrap();
    stream.write_all(&[0x16, 3, 1, 0, 100, 1, 0, 0, 96, 3, 3]).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_given_certificate_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let make = || {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        made.cert.pem()
    };
    let first = make();
    let config = Config { cert: Some(cert.clone()), key: Some(key.clone()), ..on_loopback() };
    let site = Site::with(config.clone()).await;
    assert_eq!(site.server.authority_pem(), None);
    let url = format!("https://localhost:{}/healthz", site.server.address().port());
    assert!(trusting(&first).get(&url).send().await.is_ok());
    // By its time of change, which a file system may count in whole seconds.
    let second = make();
    let later = std::time::SystemTime::now() + Duration::from_secs(10);
    std::fs::File::options().write(true).open(&cert).unwrap().set_modified(later).unwrap();
    site.server.keep(0).await;
    assert!(trusting(&second).get(&url).send().await.is_ok());
    assert!(trusting(&first).get(&url).send().await.is_err());
    let third = make();
    site.server.reload(&config).await.unwrap();
    assert!(trusting(&third).get(&url).send().await.is_ok());
    // What cannot be used changes nothing.
    std::fs::write(&key, "nonsense").unwrap();
    site.server.keep(0).await;
    assert!(matches!(site.server.reload(&config).await, Err(Error::Certificate { path, .. }) if path == key));
    assert!(trusting(&third).get(&url).send().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use() {
    let site = Site::start().await;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let config = Config { listen: site.server.address(), ..Config::default() };
    let error = Server::bind(store.clone(), config).await.err().unwrap();
    let text = error.to_string();
    assert!(
        text.contains(&site.server.address().to_string()) && text.contains(&std::process::id().to_string()),
        "{text}"
    );
    assert!(error.hint().unwrap().contains("--listen"));
    let elsewhere: SocketAddr = "192.0.2.1:5000".parse().unwrap();
    let config = Config { listen: elsewhere, ..Config::default() };
    assert!(matches!(Server::bind(store, config).await, Err(Error::Listen { address, .. }) if address == elsewhere));
}

/// A pull that is under way when the server ends is finished; connections that wait for nothing end at once.
#[tokio::test(flavor = "multi_thread")]
async fn ends_gracefully() {
    let mut site = Site::start().await;
    let text = "slow ".repeat(4_000_000);
    let image = site.image("docker.io", "library/app", "1", &text).await;
    let mut stream = TcpStream::connect(site.server.address()).await.unwrap();
    let request = format!("GET /v2/library/app/blobs/{}?ns=docker.io HTTP/1.1\r\nHost: x\r\n\r\n", image.layer);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut begun = [0; 1000];
    stream.read_exact(&mut begun).await.unwrap();
    let _idle = TcpStream::connect(site.server.address()).await.unwrap();
    let address = site.server.address();
    let stopping = tokio::spawn(async move {
        site.stop().await;
        site
    });
    while TcpStream::connect(address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    let whole = [&begun[..], &rest].concat();
    let body = whole.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(whole[body..] == *text.as_bytes(), "{} of {} bytes", whole.len() - body, text.len());
    stopping.await.unwrap();
}

/// Many requests in one go, answered in their order: bodies that the kernel sends do not overtake the others.
#[tokio::test(flavor = "multi_thread")]
async fn pipelined() {
    let site = Site::start().await;
    let (one, two) = ("1".repeat(300_000), "2".repeat(1_500_000));
    let first = site.image("docker.io", "a", "1", &one).await;
    let second = site.image("docker.io", "a", "2", &two).await;
    // docker.io/a is docker.io/library/a to every client; here it is asked for as it was stored.
    let first_path = format!("/v2/a/blobs/{}", first.layer);
    let second_path = format!("/v2/a/blobs/{}", second.layer);
    let mut stream = TcpStream::connect(site.server.address()).await.unwrap();
    let request = |path: &str, close: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{close}\r\n");
    let close = "Connection: close\r\n";
    let requests = [request(&first_path, ""), request(&second_path, ""), request(&first_path, close)].concat();
    stream.write_all(requests.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let mut rest = answer.as_slice();
    for expected in [&one, &two, &one] {
        let body = rest.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        assert!(rest[body..].starts_with(expected.as_bytes()));
        rest = &rest[body + expected.len()..];
    }
    assert!(rest.is_empty());
}

/// A request whose head is too long, or is none, is told so, also while it is still being sent.
#[tokio::test(flavor = "multi_thread")]
async fn headers_have_an_end() {
    let site = Site::start().await;
    let (long, longer) = ("x".repeat(100_000), "y".repeat(1 << 20));
    let many = "x: 1\r\n".repeat(2000);
    for (sent, status) in [
        (format!("GET /healthz HTTP/1.1\r\nHost: x\r\nx-long: {long}\r\n\r\n"), 431),
        (format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{many}\r\n"), 431),
        (format!("GET /{longer} HTTP/1.1\r\nHost: x\r\n\r\n"), 431),
        (format!("GET /healthz?q={longer} HTTP/1.1\r\nHost: x\r\n\r\n"), 431),
        ("GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n".to_owned(), 400),
        ("no request at all\r\n\r\n".to_owned(), 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_owned(), 505),
    ] {
        let answer = until_hung_up(&site, sent.as_bytes()).await;
        let shown = sent.get(..60).unwrap_or(&sent);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{shown}");
    }
    assert_eq!(site.get("/healthz").await.status(), 200);
}

/// What a proxy before the server could read otherwise is refused, and nothing behind it is read as a request.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_one_meaning() {
    let site = Site::start().await;
    let second = "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n";
    for (head, status) in [
        ("GET /healthz HTTP/1.1\r\n".to_owned(), 400),
        ("GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n".to_owned(), 400),
        ("GET /healthz HTTP/1.1\r\nHost: x y\r\n".to_owned(), 400),
        ("GET /healthz HTTP/1.1\r\nHost: \r\n".to_owned(), 400),
        ("GET /healthz HTTP/1.1\r\nHost: x/y\r\n".to_owned(), 400),
        (
            "POST /token HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"
                .to_owned(),
            400,
        ),
        ("POST /token HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n".to_owned(), 400),
        ("POST /token HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n".to_owned(), 0),
        ("POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 5\r\n".to_owned(), 0),
        ("POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n".to_owned(), 0),
        ("POST /token HTTP/1.0\r\nTransfer-Encoding: chunked\r\n".to_owned(), 0),
        (format!("GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n", second.len()), 200),
    ] {
        let answer = until_hung_up(&site, format!("{head}\r\n{second}{second}").as_bytes()).await;
        // 0: refused before it was a request at all.
        let expected = if status == 0 { "HTTP/1.1 400 ".to_owned() } else { format!("HTTP/1.1 {status} ") };
        assert!(answer.starts_with(&expected) && !answer.contains("ready"), "{head}: {answer}");
    }
    // What stands in the request line is whom it is for.
    let image = site.image("quay.io", "app", "1", "x").await;
    let sent = "GET http://quay.io/v2/app/manifests/1 HTTP/1.1\r\nHost: docker.io\r\nConnection: close\r\n\r\n";
    let answer = until_hung_up(&site, sent.as_bytes()).await;
    assert!(answer.contains(&image.digest.to_string()), "{answer}");
}

/// Who only waits makes room for who asks, and who is being answered does not.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_makes_room() {
    let site = Site::with(Config { connections: 8, ..on_loopback() }).await;
    let text = "slow ".repeat(4_000_000);
    let image = site.image("docker.io", "library/app", "1", &text).await;
    let mut pulling = TcpStream::connect(site.server.address()).await.unwrap();
    let request = format!("GET /v2/library/app/blobs/{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", image.layer);
    pulling.write_all(request.as_bytes()).await.unwrap();
    let mut begun = [0; 1000];
    pulling.read_exact(&mut begun).await.unwrap();
    // Nothing at all, half a request, a whole one and then nothing.
    let mut waiting = Vec::new();
    for number in 0..100 {
        let mut stream = TcpStream::connect(site.server.address()).await.unwrap();
        let sent = ["", "GET /healthz HTTP/1.1\r\nHo", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"][number % 3];
        stream.write_all(sent.as_bytes()).await.unwrap();
        waiting.push(stream);
        assert_eq!(until_hung_up(&site, b"GET /healthz HTTP/1.0\r\n\r\n").await.matches("200 OK").count(), 1);
    }
    let metrics = site.get("/metrics").await.text().await.unwrap();
    assert!(!metrics.contains("crowded_out_total 0\n"), "{metrics}");
    let mut rest = Vec::new();
    pulling.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(&text.as_bytes()[text.len() / 2..]), "{} bytes", rest.len());
}

/// What was sent on a connection, and what came back until the server hung up.
async fn until_hung_up(site: &Site, sent: &[u8]) -> String {
    let mut stream = TcpStream::connect(site.server.address()).await.unwrap();
    stream.write_all(sent).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_mins(1), stream.read_to_end(&mut answer)).await;
    read.unwrap().unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_is_hung_up_on() {
    let short = Duration::from_millis(200);
    let patience = Patience { handshake: short, headers: short, body: short };
    let site = Site::with(Config { patience, ..on_loopback() }).await;
    let basic = "Authorization: Bearer ".to_owned() + site.server.admin_token().unwrap();
    let begun = site.admin(Method::POST, "/v2/app/blobs/uploads/").send().await.unwrap();
    let location = begun.headers()["location"].to_str().unwrap().to_owned();
    // Nothing at all, half a hello, half a header.
    for sent in [&b""[..], &[0x16, 3, 1, 0, 100, 1], b"GET /healthz HTTP/1.1\r\nHost:"] {
        assert_eq!(until_hung_up(&site, sent).await, "");
    }
    for (method, path) in [
        ("POST", "/token"),
        ("PUT", "/v2/app/manifests/1"),
        ("PATCH", &location),
        ("POST", &format!("/v2/app/blobs/uploads/?digest={}", artifact::Digest::of(b"x"))),
    ] {
        let sent = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{basic}\r\nContent-Length: 100\r\n\r\nhalf");
        let answer = until_hung_up(&site, sent.as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 408 ") && answer.contains("nothing came for"),
            "{method} {path}: {answer}"
        );
    }
    // What came before is kept.
    let status = site.admin(Method::GET, &location).send().await.unwrap();
    assert_eq!(status.headers()["range"], "0-3");
}

/// Who is refused while it still sends reads why.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_body_does_not_reset() {
    let site = Site::start().await;
    let body = vec![b'x'; 900_000];
    let head = format!("PUT /v2/app/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    for _ in 0..10 {
        let answer = until_hung_up(&site, &[head.as_bytes(), &body].concat()).await;
        assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("connection: close"), "{answer}");
    }
    // More than is read off: a client that reads while it sends gets the answer all the same.
    let large = vec![b'x'; 64 * 1024 * 1024];
    let answer = site.request(Method::PUT, "/v2/app/manifests/1").body(large).send().await.unwrap();
    assert_eq!(answer.status(), 401);
}

/// A body without a length that was read whole does not cost the connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_in_chunks_keeps_the_connection() {
    let site = Site::start().await;
    let token = site.server.admin_token().unwrap();
    let path = format!("/v2/app/blobs/uploads/?digest={}", artifact::Digest::of(b"abc"));
    let request = |more: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{more}Transfer-Encoding: chunked\r\n\r\n\
             3\r\nabc\r\n0\r\n\r\n"
        )
    };
    let both = [request(""), request("Connection: close\r\n")].concat();
    let answers = until_hung_up(&site, both.as_bytes()).await;
    assert_eq!(answers.matches("HTTP/1.1 201 ").count(), 2, "{answers}");
}

/// The certificate that a new connection is shown, and whether it trusts that.
async fn shown(site: &Site) -> Vec<u8> {
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, pki_types};
    let mut roots = RootCertStore::empty();
    let pem = site.server.authority_pem().unwrap();
    roots.add(pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(site.server.address()).await.unwrap();
    let name = pki_types::ServerName::try_from("localhost").unwrap();
    let stream = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// A leaf is renewed without a restart, and nobody who pulls notices.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_renews_under_load() {
    let site = Site::start().await;
    let text = "pulled ".repeat(300_000);
    let image = site.image("docker.io", "library/app", "1", &text).await;
    let url = format!("https://{}/v2/library/app/blobs/{}?ns=docker.io", site.server.address(), image.layer);
    let pem = site.server.authority_pem().unwrap();
    let pulling: Vec<_> = (0..4)
        .map(|_| {
            let (url, text, pem) = (url.clone(), text.clone(), pem.clone());
            tokio::spawn(async move {
                let kept = trusting(&pem);
                for _ in 0..10 {
                    // On a connection that stays, and on a new one.
                    for client in [kept.clone(), trusting(&pem)] {
                        assert!(client.get(&url).send().await.unwrap().text().await.unwrap() == text);
                    }
                }
            })
        })
        .collect();
    let first = shown(&site).await;
    let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
    site.server.keep(now + 340 * 86_400).await;
    assert_ne!(shown(&site).await, first);
    for pull in pulling {
        pull.await.unwrap();
    }
}
