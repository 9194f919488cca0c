//! A part put into the file of a client that has more in it: comments, order and everything else stay.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use toml_edit::{DocumentMut, Item, Table, TableLike, Value};

use super::ConfigFile;
use crate::{Error, Result};

/// The registry's and the sandbox image's tables of containerd's CRI plug-in, for a `config.toml` of version 1, 2, and 3
/// or later: the names follow the file's version, not the program's.
const REGISTRY: [&[&str]; 3] = [
    &["plugins", "cri", "registry"],
    &["plugins", "io.containerd.grpc.v1.cri", "registry"],
    &["plugins", "io.containerd.cri.v1.images", "registry"],
];
const SANDBOX: [(&[&str], &str); 3] = [
    (&["plugins", "cri"], "sandbox_image"),
    (&["plugins", "io.containerd.grpc.v1.cri"], "sandbox_image"),
    (&["plugins", "io.containerd.cri.v1.images", "pinned_images"], "sandbox"),
];

/// What `file` is on a client that has `existing` there: its own text, or the existing one with the part in it. Merging
/// twice changes nothing.
///
/// # Errors
/// [`Error::File`], when what is there cannot be read.
pub fn merge(file: &ConfigFile, existing: Option<&str>) -> Result<String> {
    match existing {
        Some(text) if file.part && !text.trim().is_empty() => {
            let merged =
                if file.path == super::docker::DAEMON { json(&file.text, text) } else { toml(&file.text, text) };
            merged.map_err(|why| Error::File { path: file.path.clone(), why })
        }
        _ => Ok(file.text.clone()),
    }
}

/// Whether a client could read a TOML file of its own.
///
/// # Errors
/// [`Error::File`], with the place.
pub fn check_toml(path: &str, text: &str) -> Result<()> {
    let read = text.parse::<DocumentMut>();
    read.map(|_| ()).map_err(|error| Error::File { path: path.to_owned(), why: one_line(&error.to_string()) })
}

/// containerd's `config.toml`.
fn toml(part: &str, existing: &str) -> Result<String, String> {
    let read = |text: &str| text.parse::<DocumentMut>().map_err(|error| one_line(&error.to_string()));
    let (part, mut document) = (read(part)?, read(existing)?);
    let (from, to) = (age(&part), age(&document));
    let registry = table(part.as_table(), REGISTRY[from]);
    if let Some(registry) = registry {
        let target = table_mut(document.as_table_mut(), REGISTRY[to])?;
        if registry.contains_key("config_path") {
            // With either of them beside a `config_path` the CRI plug-in does not load.
            target.remove("mirrors");
            if let Some(configs) = target.get_mut("configs").and_then(Item::as_table_like_mut) {
                for (_, server) in configs.iter_mut() {
                    server.as_table_like_mut().map(|server| server.remove("tls"));
                }
            }
        }
        if registry.contains_key("mirrors") {
            // Nor with it beside them; only an empty one does no harm.
            if target.get("config_path").and_then(Item::as_str).is_some_and(|path| !path.is_empty()) {
                target.remove("config_path");
            }
        }
        join(target, registry)?;
    }
    let (path, key) = SANDBOX[from];
    if let Some(image) = table(part.as_table(), path).and_then(|found| found.get(key)) {
        let (path, key) = SANDBOX[to];
        set(table_mut(document.as_table_mut(), path)?, key, image)?;
    }
    Ok(document.to_string())
}

/// Which of the tables' names a document has: by its `version`, which is 1 where nothing is said.
fn age(document: &DocumentMut) -> usize {
    match document.get("version").and_then(Item::as_integer) {
        None | Some(..=1) => 0,
        Some(2) => 1,
        Some(3..) => 2,
    }
}

fn table<'a>(root: &'a Table, path: &[&str]) -> Option<&'a dyn TableLike> {
    path.iter().try_fold(root as &dyn TableLike, |table, key| table.get(key)?.as_table_like())
}

/// The table at `path`, made where it is not; only its own heading is written then, none of those above.
fn table_mut<'a>(root: &'a mut Table, path: &[&str]) -> Result<&'a mut dyn TableLike, String> {
    let mut table: &mut dyn TableLike = root;
    for key in path {
        if table.get(key).is_none() {
            let mut new = Table::new();
            new.set_implicit(true);
            table.insert(key, Item::Table(new));
        }
        let is_no_table = || format!("`{}` is no table", path.join("."));
        table = table.get_mut(key).and_then(Item::as_table_like_mut).ok_or_else(is_no_table)?;
    }
    Ok(table)
}

fn join(target: &mut dyn TableLike, part: &dyn TableLike) -> Result<(), String> {
    for (key, item) in part.iter() {
        if let Some(below) = item.as_table_like() {
            if target.get(key).is_none() {
                let mut new = Table::new();
                new.set_implicit(true);
                target.insert(key, Item::Table(new));
            }
            let is_no_table = || format!("`{key}` is no table");
            join(target.get_mut(key).and_then(Item::as_table_like_mut).ok_or_else(is_no_table)?, below)?;
        } else {
            set(target, key, item)?;
        }
    }
    Ok(())
}

/// Sets a value. One that is there keeps the comment behind it, and one that is the same stays as it is written.
fn set(target: &mut dyn TableLike, key: &str, item: &Item) -> Result<(), String> {
    let new = item.as_value().ok_or_else(|| format!("`{key}` is no value"))?;
    let Some(there) = target.get_mut(key) else {
        target.insert(key, Item::Value(bare(new)));
        return Ok(());
    };
    let there = there.as_value_mut().ok_or_else(|| format!("`{key}` is no value"))?;
    if bare(there).to_string() != bare(new).to_string() {
        let decor = there.decor().clone();
        *there = new.clone();
        *there.decor_mut() = decor;
    }
    Ok(())
}

/// A value without what stands around it.
fn bare(value: &Value) -> Value {
    let mut value = value.clone();
    value.decor_mut().clear();
    value
}

/// The members of an object in their order, each value as it is written.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

/// docker's `daemon.json`: only the text of values is replaced, and what is new goes behind the last.
fn json(part: &str, existing: &str) -> Result<String, String> {
    members(part)?.into_iter().try_fold(existing.to_owned(), |text, (key, value)| with(&text, &key, value.get()))
}

fn members(text: &str) -> Result<Vec<(String, &RawValue)>, String> {
    Ok(serde_json::from_str::<Members<'_>>(text).map_err(|error| error.to_string())?.0)
}

/// `text` with the value of one key.
fn with(text: &str, key: &str, value: &str) -> Result<String, String> {
    let there = members(text)?;
    let mut names = BTreeSet::new();
    if let Some((twice, _)) = there.iter().find(|(name, _)| !names.insert(name)) {
        return Err(format!("`{twice}` is there twice"));
    }
    let old = there.iter().find(|(name, _)| name == key).map(|(_, old)| *old);
    let value = match old {
        // Somebody else's registries stay reachable.
        Some(old) if key == "insecure-registries" => union(old.get(), value)?,
        _ => value.to_owned(),
    };
    let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    let end_of = |value: &RawValue| place(text, value).map(|at| at + value.get().len());
    let (from, to, new) = match (old, there.last()) {
        (Some(old), _) if parsed(old.get()) == parsed(&value) => return Ok(text.to_owned()),
        (Some(old), _) => (place(text, old), end_of(old), value),
        (None, Some((_, last))) => (end_of(last), end_of(last), format!(",\n  \"{key}\": {value}")),
        (None, None) => {
            let open = text.find('{').map(|at| at + 1);
            (open, open, format!("\n  \"{key}\": {value}\n"))
        }
    };
    let ends = from.zip(to).and_then(|(from, to)| Some((text.get(..from)?, text.get(to..)?)));
    let (before, behind) = ends.ok_or("it is no object")?;
    Ok(format!("{before}{new}{behind}"))
}

/// Where a value that was borrowed from `text` begins in it.
fn place(text: &str, value: &RawValue) -> Option<usize> {
    (value.get().as_ptr() as usize).checked_sub(text.as_ptr() as usize)
}

fn union(old: &str, new: &str) -> Result<String, String> {
    let read = |text| serde_json::from_str::<Vec<String>>(text).map_err(|error| error.to_string());
    let mut all = read(old)?;
    all.extend(read(new)?);
    let mut seen = BTreeSet::new();
    all.retain(|value| seen.insert(value.clone()));
    serde_json::to_string(&all).map_err(|error| error.to_string())
}

/// The first line says where, the last what; between them the text itself is drawn.
fn one_line(text: &str) -> String {
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    match lines.as_slice() {
        [first, .., last] => format!("{first}: {last}"),
        _ => text.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Client, Site, configure};

    fn site() -> Site {
        let site = Site::new("https://10.0.0.5:5000".parse().unwrap());
        site.ca("PEM").pause("registry.k8s.io/pause:3.10".parse().unwrap())
    }

    fn part(client: Client, version: &str) -> ConfigFile {
        let files = configure(client, &site(), Some(version.parse().unwrap())).files;
        files.into_iter().find(|file| file.part).unwrap()
    }

    fn merged(client: Client, version: &str, existing: &str) -> String {
        let file = part(client, version);
        let text = merge(&file, Some(existing)).unwrap();
        assert_eq!(merge(&file, Some(&text)).unwrap(), text, "twice is not once");
        text
    }

    #[test]
    fn a_part_goes_into_config_toml_and_the_rest_stays() {
        let old = "# Ours.\nversion = 2\nroot = '/data' # a big disk\n\n[plugins]\n  [plugins.'io.containerd.grpc.v1.cri']\n    \
                   sandbox_image = \"pause:3\" # from the mirror\n    [plugins.'io.containerd.grpc.v1.cri'.registry]\n      \
                   # gone: mirrors\n      [plugins.'io.containerd.grpc.v1.cri'.registry.mirrors.'docker.io']\n        \
                   endpoint = ['https://old']\n      [plugins.'io.containerd.grpc.v1.cri'.registry.configs.'r:5'.tls]\n        \
                   insecure_skip_verify = true\n      [plugins.'io.containerd.grpc.v1.cri'.registry.configs.'r:5'.auth]\n        \
                   username = 'u'\n\n# The end.\n[metrics]\n  address = ''\n";
        insta::assert_snapshot!("merged-2", merged(Client::Containerd, "1.7.20", old));
        // The file's version decides what tables are called, not the program's.
        assert_eq!(merged(Client::Containerd, "2.1.0", old), merged(Client::Containerd, "1.7.20", old));
        insta::assert_snapshot!("merged-3", merged(Client::Containerd, "1.7.20", "version = 3\n# Nothing else.\n"));
        insta::assert_snapshot!("merged-1", merged(Client::Containerd, "1.7.20", "root = '/data'\n"));
        insta::assert_snapshot!("merged-old", merged(Client::Containerd, "1.5.18", old));
    }

    /// A CRI plug-in that has both does not load, and with it no pod starts.
    #[test]
    fn mirrors_and_a_folder_of_hosts_never_meet() {
        let old =
            "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry]\n  config_path = '/etc/containerd/certs.d'\n";
        let text = merged(Client::Containerd, "1.5.18", old);
        assert!(text.contains("mirrors") && !text.contains("config_path"), "{text}");
        let back = merged(Client::Containerd, "1.7.20", &text);
        assert!(!back.contains("mirrors") && back.contains("config_path"), "{back}");
        let empty = old.replace("/etc/containerd/certs.d", "");
        assert!(merged(Client::Containerd, "1.5.18", &empty).contains("config_path = ''"));
    }

    #[test]
    fn keys_go_into_daemon_json_and_the_rest_stays() {
        let old = "{\n    \"log-driver\" : \"journald\",\n\t\"registry-mirrors\": [ \"https://old\" ],\n    \"x\": {\"y\": [1,2]}\n}\n";
        insta::assert_snapshot!("merged-daemon", merged(Client::Docker, "28", old));
        assert_eq!(merged(Client::Docker, "28", "{}"), "{\n  \"registry-mirrors\": [\"https://10.0.0.5:5000\"]\n}");
        assert_eq!(merged(Client::Docker, "28", " \n"), part(Client::Docker, "28").text);
        let plain = Site::new("http://10.0.0.5:5000".parse().unwrap());
        let file = configure(Client::Docker, &plain, Some("28".parse().unwrap())).files.remove(0);
        let text = merge(&file, Some("{\"insecure-registries\":[\"a,b\"]}")).unwrap();
        assert!(text.contains("10.0.0.5:5000\"]") && text.contains("\"a"), "{text}");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = merge(&part(Client::Docker, "28"), Some("{ // no\n}")).unwrap_err();
        assert!(error.to_string().contains("daemon.json: ") && error.to_string().contains("line 1"), "{error}");
        let error = merge(&part(Client::Docker, "28"), Some("{\"a\":1,\"a\":2}")).unwrap_err();
        assert!(error.to_string().contains("twice"), "{error}");
        let error = merge(&part(Client::Containerd, "2.1"), Some("a = 1\nb = = 2\n")).unwrap_err();
        assert!(error.to_string().contains("config.toml: ") && error.to_string().contains("line 2"), "{error}");
        merge(&part(Client::Containerd, "2.1"), Some("version = 3\nplugins = 5\n")).unwrap_err();
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[ -~\n\t가]{0,80}", json in "[{}\\[\\]\":,a1 \n]{0,60}") {
            for (client, version) in [(Client::Containerd, "2.1"), (Client::Containerd, "1.5"), (Client::Docker, "28")] {
                let file = part(client, version);
                let _ = merge(&file, Some(&text));
                let _ = merge(&file, Some(&json));
            }
        }
    }
}
