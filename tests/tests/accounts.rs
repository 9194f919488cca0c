//! Accounts, as an operator makes them on a running site and as real clients use them.

#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use journeys::image::{Image, application};
use journeys::{Dockerd, Folder, Naru, Need, Outcome, find, http, journey, run};
use serde_json::Value;

const NEEDS: &[Need] =
    &[Need::Program("skopeo"), Need::Program("podman"), Need::Program("busybox"), Need::Program("docker-registry")];

/// skopeo with credentials of its own, and no others.
fn skopeo(folder: &Folder, arguments: &[&str]) -> Result<Outcome> {
    let mut command = Command::new(find("skopeo").context("skopeo is not here")?);
    command.arg("--insecure-policy").args(arguments);
    command.env("HOME", folder.path()).env("REGISTRY_AUTH_FILE", folder.join("none.json"));
    Outcome::of(&mut command)
}

/// Pushes an image's layout; whether it was let in.
fn push(folder: &Folder, layout: &Path, to: &str, word: &str) -> Result<bool> {
    let (from, to) = (format!("oci:{}:it", layout.display()), format!("docker://{to}"));
    let credentials = format!("--dest-creds=any:{word}");
    let outcome = skopeo(folder, &["copy", "--all", "--dest-tls-verify=false", &credentials, &from, &to])?;
    Ok(outcome.status.success())
}

fn inspect(folder: &Folder, what: &str, credentials: Option<&str>) -> Result<bool> {
    let what = format!("docker://{what}");
    let credentials = credentials.map_or_else(|| "--no-creds".to_owned(), |word| format!("--creds={word}"));
    let outcome = skopeo(folder, &["inspect", "--raw", "--tls-verify=false", &credentials, &what])?;
    Ok(outcome.status.success())
}

/// Runs naru with this on its stdin.
fn told(naru: &Naru, arguments: &[&str], input: &str) -> Result<Outcome> {
    let mut command = naru.command(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().context("piped")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok(Outcome { status: output.status, stdout: text(&output.stdout), stderr: text(&output.stderr) })
}

/// An image in a layout that skopeo reads, by way of a registry.
fn layout(folder: &Folder, image: &Image) -> Result<std::path::PathBuf> {
    let registry = journeys::Registry::start(folder, "source")?;
    registry.push("app", "it", image)?;
    let path = folder.path().join("layout");
    let (from, to) = (format!("docker://{}/app:it", registry.host()), format!("oci:{}:it", path.display()));
    let outcome = skopeo(folder, &["copy", "--all", "--src-tls-verify=false", &from, &to])?;
    ensure!(outcome.status.success(), "{}", outcome.stderr);
    Ok(path)
}

#[test]
fn a_token_is_made_used_and_ended_while_the_server_runs() {
    journey("a_token_is_made_used_and_ended_while_the_server_runs", NEEDS, |folder| {
        let layout = layout(folder, &application(folder, "app")?)?;
        let naru = Naru::new(folder, "naru")?;
        std::fs::create_dir_all(naru.store())?;
        std::fs::write(naru.store().join("serve.yaml"), "anonymous: [open/*]\n")?;
        let serving = naru.serve(&[])?;
        let host = serving.address();
        let add = |name: &str, scopes: &[&str]| -> Result<String> {
            let mut arguments = vec!["token", "add", name];
            arguments.extend(scopes.iter().flat_map(|scope| ["--scope", scope]));
            let said = naru.ok(arguments)?.stdout;
            ensure!(said.lines().count() == 1, "the token, and nothing else: {said}");
            Ok(said.trim().to_owned())
        };
        let ci = add("ci", &["read:team/*", "write:team/*"])?;
        let reader = add("reader", &["read"])?;
        // What could not be shown is not there.
        let unseen = |naru: &Naru| -> Result<()> {
            let mut command = naru.command(["token", "add", "unseen", "--scope", "read"]);
            let shown = command.stdout(std::fs::File::options().write(true).open("/dev/full")?).output()?;
            ensure!(!shown.status.success(), "nobody has seen it");
            ensure!(!naru.ok(["token", "ls"])?.stdout.contains("unseen"), "it goes on without anybody who knows it");
            Ok(())
        };
        unseen(&naru)?;
        unseen(&Naru::new(folder, "unserved")?)?;
        let (team, open) = (format!("{host}/team/app:1"), format!("{host}/open/app:1"));
        ensure!(push(folder, &layout, &team, &ci)?, "ci may push to team");
        ensure!(!push(folder, &layout, &open, &ci)?, "and nowhere else");
        ensure!(!push(folder, &layout, &team, &reader)?, "who may read may not push");
        let admin = std::fs::read_to_string(naru.store().join("admin.token"))?.trim().to_owned();
        ensure!(push(folder, &layout, &open, &admin)?, "the admin may");
        for (what, credentials, expected) in [
            (&team, Some(format!("x:{ci}")), true),
            (&team, Some(format!("y:{reader}")), true),
            (&team, None, false),
            (&team, Some("x:wrong".to_owned()), false),
            (&open, None, true),
            (&open, Some(format!("x:{ci}")), true),
        ] {
            let seen = inspect(folder, what, credentials.as_deref())?;
            ensure!(seen == expected, "{what} {credentials:?}: {seen}");
        }
        // What the token brought ends with it, and so does what was remembered for it.
        let answer = http::request(&serving.url("/token"), &["--user", &format!("x:{ci}")], None)?;
        let brought = serde_json::from_slice::<Value>(&answer.body)?["token"].as_str().unwrap().to_owned();
        let manifest = serving.url("/v2/team/app/manifests/1");
        let bearer = format!("Authorization: Bearer {brought}");
        ensure!(http::request(&manifest, &["--header", &bearer], None)?.status == 200);
        let listed = naru.ok(["token", "ls"])?.stdout;
        ensure!(listed.contains("ci  read:team/* write:team/*") && !listed.contains(&ci), "{listed}");
        naru.ok(["token", "rm", "ci"])?;
        ensure!(http::request(&manifest, &["--header", &bearer], None)?.status == 401);
        ensure!(!inspect(folder, &team, Some(&format!("x:{ci}")))?);
        ensure!(inspect(folder, &team, Some(&format!("y:{reader}")))?);
        let twice = naru.run(["token", "rm", "ci"])?;
        ensure!(!twice.status.success() && twice.stderr.contains("hint:"), "{}", twice.stderr);

        let audit = std::fs::read_to_string(naru.store().join("audit/audit.jsonl"))?;
        for word in [&ci, &reader, &admin, &brought] {
            ensure!(!audit.contains(word.as_str()), "a secret in the audit");
        }
        let lines = audit.lines().map(serde_json::from_str).collect::<serde_json::Result<Vec<Value>>>()?;
        for (action, by) in [("token add", "uid 0"), ("token rm", "uid 0"), ("push", "token ci"), ("push", "admin")] {
            let found = lines.iter().any(|line| {
                line["action"] == action && line["by"].as_str().unwrap().starts_with(by) && line["outcome"] == "done"
            });
            ensure!(found, "{action} by {by}: {audit}");
        }
        ensure!(lines.iter().any(|line| line["by"] == "token reader" && line["outcome"] == "denied"), "{audit}");
        Ok(())
    });
}

#[test]
fn people_have_passwords_and_a_kill_takes_no_account_back() {
    journey("people_have_passwords_and_a_kill_takes_no_account_back", NEEDS, |folder| {
        let layout = layout(folder, &application(folder, "app")?)?;
        let naru = Naru::new(folder, "naru")?;
        std::fs::create_dir_all(naru.store())?;
        std::fs::write(naru.store().join("serve.yaml"), "anonymous: false\n")?;
        let mut serving = naru.serve(&[])?;
        let done = told(&naru, &["user", "add", "alice", "--scope", "read,write"], "geheim\n")?;
        ensure!(done.status.success(), "{}", done.stderr);
        serving.daemon.kill()?;
        drop(serving);
        let serving = naru.serve(&[])?;
        let app = format!("{}/app:1", serving.address());
        ensure!(!push(folder, &layout, &app, "geheim")?, "the password is alice's own");
        let from = format!("oci:{}:it", layout.display());
        let copied = skopeo(
            folder,
            &[
                "copy",
                "--all",
                "--dest-tls-verify=false",
                "--dest-creds=alice:geheim",
                &from,
                &format!("docker://{app}"),
            ],
        )?;
        ensure!(copied.status.success(), "{}", copied.stderr);
        ensure!(inspect(folder, &app, Some("alice:geheim"))? && !inspect(folder, &app, Some("alice:falsch"))?);
        let done = told(&naru, &["user", "passwd", "alice"], "neu")?;
        ensure!(done.status.success(), "{}", done.stderr);
        ensure!(inspect(folder, &app, Some("alice:neu"))? && !inspect(folder, &app, Some("alice:geheim"))?);

        // As podman logs in.
        let auth = folder.path().join("auth.json");
        let mut login = Command::new(find("podman").context("podman is not here")?);
        login.args(["login", "--tls-verify=false", "--username", "alice", "--password", "neu", "--authfile"]);
        login.arg(&auth).arg(serving.address()).env("HOME", folder.path());
        let login = Outcome::of(&mut login)?;
        ensure!(login.status.success(), "{}", login.stderr);

        // htpasswd: bcrypt comes over, and anything weaker is named and takes nothing with it.
        let bcrypt = "bob:$2a$04$9qV92tpa9g9SmuxEgSj0VOgDNdpHlDzkSfJoowqYL3JaIqrV0L8qC\n";
        let weak = folder.write("weak", format!("{bcrypt}carol:$apr1$abcdefgh$0123456789012345678901\n"))?;
        let refused = naru.run(["user", "import", weak.to_str().unwrap(), "--scope", "read"])?;
        ensure!(!refused.status.success(), "apr1 was taken");
        for word in ["line 2", "carol", "apr1", "hint:"] {
            ensure!(refused.stderr.contains(word), "{word}: {}", refused.stderr);
        }
        ensure!(!inspect(folder, &app, Some("bob:123456"))?, "nothing was taken over");
        let good = folder.write("good", bcrypt)?;
        for done in ["added    user bob", "changed  user bob"] {
            let told = naru.ok(["user", "import", good.to_str().unwrap(), "--scope", "read"])?.stdout;
            ensure!(told.trim() == done, "{told}");
        }
        ensure!(inspect(folder, &app, Some("bob:123456"))?);
        let listed = naru.ok(["user", "ls"])?.stdout;
        ensure!(listed == "alice  read write\nbob  read\n", "{listed}");
        naru.ok(["user", "rm", "bob"])?;
        ensure!(!inspect(folder, &app, Some("bob:123456"))?);
        drop(serving);
        // Without a server, too; and nobody makes a store by looking.
        naru.ok(["user", "rm", "alice"])?;
        let nowhere = Naru::new(folder, "nowhere")?;
        ensure!(!nowhere.run(["token", "ls"])?.status.success());
        Ok(())
    });
}

#[test]
fn docker_logs_in_with_a_token_and_pushes_where_it_may() {
    const NEEDS: &[Need] = &[Need::Program("dockerd"), Need::Program("docker"), Need::Program("tar")];
    journey("docker_logs_in_with_a_token_and_pushes_where_it_may", NEEDS, |folder| {
        let naru = Naru::new(folder, "naru")?;
        std::fs::create_dir_all(naru.store())?;
        std::fs::write(naru.store().join("serve.yaml"), "anonymous: false\n")?;
        let serving = naru.serve(&[])?;
        let host = serving.address();
        let dockerd = Dockerd::start(folder, &format!("http://{host}"))?;
        let (marker, archive) = (folder.write("layer/marker", "own")?, folder.join("layer.tar"));
        let inside = marker.parent().context("a folder")?.to_owned();
        let (tar, from) = (archive.display().to_string(), inside.display().to_string());
        run("tar", ["-cf", &tar, "-C", &from, "marker"])?;
        let (team, other) = (format!("{host}/team/app:1"), format!("{host}/other/app:1"));
        for name in [&team, &other] {
            dockerd.docker(&["import", &tar, name])?;
        }
        ensure!(dockerd.docker(&["push", &team]).is_err(), "nobody may push");
        let wrong = dockerd.docker(&["login", "--username", "x", "--password", "wrong", host]);
        ensure!(wrong.is_err(), "a wrong word was taken");
        let word = naru.ok(["token", "add", "ci", "--scope", "read:team/*,write:team/*"])?.stdout.trim().to_owned();
        dockerd.docker(&["login", "--username", "x", "--password", &word, host])?;
        dockerd.docker(&["push", &team])?;
        ensure!(dockerd.docker(&["push", &other]).is_err(), "only team is its own");
        dockerd.docker(&["image", "rm", &team])?;
        dockerd.docker(&["pull", &team])?;
        naru.ok(["token", "rm", "ci"])?;
        dockerd.docker(&["image", "rm", &team])?;
        ensure!(dockerd.docker(&["pull", &team]).is_err(), "the token was removed");
        Ok(())
    });
}

#[test]
fn a_client_certificate_is_an_account() {
    const NEEDS: &[Need] = &[Need::Program("skopeo"), Need::Program("openssl"), Need::Program("docker-registry")];
    journey("a_client_certificate_is_an_account", NEEDS, |folder| {
        let layout = layout(folder, &application(folder, "app")?)?;
        let openssl = |arguments: &[&str]| -> Result<()> {
            let mut command = Command::new(find("openssl").context("openssl is not here")?);
            Outcome::of(command.args(arguments).current_dir(folder.path()))?.ok("openssl").map(drop)
        };
        let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
        let subject = |name: &'static str| ["-subj", name];
        openssl(&[&new[..], &subject("/CN=clients"), &["-keyout", "ca.key", "-out", "ca.pem"]].concat())?;
        folder.make("certificates")?;
        let signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=CA:FALSE"];
        let to = ["-keyout", "certificates/client.key", "-out", "certificates/client.cert"];
        openssl(&[&new[..], &subject("/CN=node"), &signed, &to].concat())?;

        let naru = Naru::new(folder, "naru")?;
        std::fs::create_dir_all(naru.store())?;
        let configuration = format!("anonymous: false\nclient_ca: {}\n", folder.join("ca.pem").display());
        std::fs::write(naru.store().join("serve.yaml"), configuration)?;
        let serving = naru.serve(&[])?;
        let ca = serving.ca(folder)?;
        std::fs::copy(ca, folder.join("certificates/ca.crt"))?;
        let place = folder.join("certificates").display().to_string();
        let (from, to) = (format!("oci:{}:it", layout.display()), format!("docker://{}/team/app:1", serving.address()));
        let copy = ["copy", "--all", "--dest-cert-dir", &place, "--dest-no-creds", &from, &to];
        ensure!(!skopeo(folder, &copy)?.status.success(), "it is nobody's yet");
        let key = folder.join("certificates/client.key");
        let shown = key.display().to_string();
        let wrong = naru.run(["user", "add", "node", "--scope", "read", "--certificate", &shown])?;
        let secret = std::fs::read_to_string(&key)?.lines().nth(1).context("a key")?[..20].to_owned();
        ensure!(wrong.stderr.contains(&shown) && !wrong.stderr.contains(&secret), "{}", wrong.stderr);
        let file = folder.join("certificates/client.cert").display().to_string();
        naru.ok(["user", "add", "node", "--scope", "read:team/*,write:team/*", "--certificate", &file])?;
        let pushed = skopeo(folder, &copy)?;
        ensure!(pushed.status.success(), "{}", pushed.stderr);
        let inspect = ["inspect", "--raw", "--cert-dir", &place, "--no-creds", &to];
        ensure!(skopeo(folder, &inspect)?.status.success());
        naru.ok(["user", "rm", "node"])?;
        ensure!(!skopeo(folder, &inspect)?.status.success(), "the account was removed");
        Ok(())
    });
}
