//! What lies beside the volumes, for people: lists, checksums, a read-me, the program.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use artifact::{Digest, Hasher, Progress};
use store::Store;

use crate::document::What;
use crate::medium::{Medium, Past};
use crate::pack::{PackOptions, Packed, SEED};
use crate::plan::{Item, Layout, Source};
use crate::report::{self, Format, Places};
use crate::tree::Tree;
use crate::volume::CHUNK;
use crate::{Error, Result, Verified, is_named_parity, is_named_volume, open_file, plan};

/// The checksums of all that lies there, as `sha256sum -c` reads them.
const SUMS: &str = "SHA256SUMS";
/// All that lies beside the volumes: nothing that is loaded.
pub(crate) const BESIDE: [&str; 6] = ["CONTENTS.html", "CONTENTS.csv", "README.txt", "naru", SEED, SUMS];
/// The most of it that is read: a line is about 80 bytes.
const SUMS_LIMIT: u64 = 8 << 20;

/// The store that is packed, as a report reads it.
struct There<'a> {
    store: &'a Store,
    manifests: HashMap<Digest, bytes::Bytes>,
    blobs: HashMap<Digest, store::Blob>,
}

impl report::Contents for There<'_> {
    fn manifest(&self, digest: &Digest) -> Option<bytes::Bytes> {
        self.manifests.get(digest).cloned()
    }

    fn blob(&self, digest: &Digest, most: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = self.store.open_blob(self.blobs.get(digest)?).ok()?;
        file.take(most as u64).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }
}

/// Writes them all. Of many things, each list is long: what is not needed any more goes before the next is made.
pub(crate) fn write(
    store: &Store,
    packed: &Packed,
    layout: Layout,
    trees: Vec<Tree>,
    options: &PackOptions,
) -> Result<()> {
    let out = &options.out;
    let key = layout.volumes.first().map(|volume| plan::read_head(&volume.head, out)).transpose()?;
    let key = key.map(|(_, key)| key.to_line()).unwrap_or_default();
    let mut sums: BTreeMap<String, Digest> = earlier_sums(&out.join(SUMS), &layout);
    let mut places = Places::new();
    let mut there = There { store, manifests: HashMap::new(), blobs: HashMap::new() };
    for (number, volume) in (1_u32..).zip(layout.volumes) {
        for Item { member, source } in volume.items {
            let (digest, size) = match (member.what(), &member.part) {
                (Some(What::Blob(digest) | What::Manifest(digest)), _) => (digest, member.size),
                (Some(What::Part(digest)), Some(part)) => (digest, part.size),
                _ => continue,
            };
            match source {
                Source::Bytes(bytes) => drop(there.manifests.insert(digest, bytes)),
                Source::Blob(blob, _) => drop(there.blobs.insert(digest, blob)),
            }
            places.entry(digest).or_insert((size, Vec::new())).1.push(number);
        }
    }
    let rows = report::rows(&trees, &places, &there, &report::Beside::default());
    drop((trees, places, there));
    let bundle = Some((&packed.id, packed.fingerprint.as_str()));
    for (name, format) in [("CONTENTS.html", Format::Html), ("CONTENTS.csv", Format::Csv)] {
        let digest = write_beside(&out.join(name), |file| report::write_rows(&rows, bundle, format, file))?;
        sums.insert(name.to_owned(), digest);
    }
    drop(rows);
    // The archive may be another run's, of another volume.
    let readme = readme(packed, &key, options.suffix.as_str(), out.join(SEED).exists());
    let digest = write_beside(&out.join("README.txt"), |file| file.write_all(readme.as_bytes()))?;
    sums.insert("README.txt".to_owned(), digest);
    if let Some(binary) = &options.binary {
        sums.insert("naru".to_owned(), copy_binary(binary, &out.join("naru"))?);
    }
    for volume in packed.volumes.iter().chain(&packed.parity).chain(&packed.seed) {
        let name = volume.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        sums.insert(name, volume.sha256);
    }
    write_beside(&out.join(SUMS), |file| {
        sums.iter().try_for_each(|(name, digest)| writeln!(file, "{}  {name}", digest.hex()))
    })?;
    Ok(())
}

/// Writes a small file beside the volumes, durably, under its name only when it is whole. Answers its hash.
pub(crate) fn write_beside(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<Digest> {
    let partial = path.with_extension("partial");
    let file = File::create(&partial).map_err(Error::io(&partial))?;
    let mut writer = BufWriter::new(Hashing { file: &file, hasher: Hasher::sha256() });
    let written = write(&mut writer).and_then(|()| writer.into_inner().map_err(io::IntoInnerError::into_error));
    let hasher = written.map_err(Error::io(&partial))?.hasher;
    file.sync_all().map_err(Error::io(&partial))?;
    std::fs::rename(&partial, path).map_err(Error::io(path))?;
    Ok(hasher.finish())
}

/// Hashes what it writes.
struct Hashing<'a> {
    file: &'a File,
    hasher: Hasher,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The lines of volumes of the same bundle that another run (`--only`) wrote here.
fn earlier_sums(path: &Path, layout: &Layout) -> BTreeMap<String, Digest> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let (hex, name) = line.split_once("  ")?;
        let is_ours = name == SEED || layout.volumes.iter().any(|volume| volume.name == name);
        let is_there = path.with_file_name(name).exists();
        Some((name.to_owned(), Digest::from_hex(hex).ok()?)).filter(|_| is_ours && is_there)
    });
    lines.collect()
}

/// Hashes what lies beside the volumes in a folder and is listed in its `SHA256SUMS`. Nobody has signed that list, so
/// it names nothing but files in its own folder.
pub(crate) fn check(folder: &Path, progress: &dyn Progress, verified: &mut Verified) {
    let path = folder.join(SUMS);
    if !path.exists() {
        // Volumes may be carried by themselves.
        return;
    }
    let mut text = String::new();
    let read =
        open_file(&path).and_then(|file| file.take(SUMS_LIMIT).read_to_string(&mut text).map_err(Error::io(&path)));
    let mut damage: Vec<String> = read.err().iter().map(ToString::to_string).collect();
    let is_plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    for (number, line) in (1_u32..).zip(text.lines()) {
        let Some((Ok(digest), name)) = line.split_once("  ").map(|(hex, name)| (Digest::from_hex(hex), name)) else {
            damage.push(format!("{}: line {number} is no checksum", path.display()));
            continue;
        };
        let file = folder.join(name);
        if !is_plain(name) || is_named_volume(&file) || is_named_parity(&file) {
            continue;
        }
        if !file.exists() {
            verified.beside.push(name.to_owned());
            continue;
        }
        let found = open_file(&file).and_then(|opened| {
            let size = opened.metadata().map_err(Error::io(&file))?.len();
            let (mut medium, mut hasher) = (Medium::open(&file)?, Hasher::sha256());
            progress.begin("verify", size);
            let streamed = medium.stream(0, size, |bytes| {
                hasher.update(bytes);
                progress.advance(bytes.len() as u64);
            });
            progress.end();
            verified.bypassed &= medium.past == Past::Bypassed;
            streamed.map(|()| hasher.finish())
        });
        match found {
            Ok(found) if found == digest => {}
            Ok(_) => damage.push(format!("{}: it is not what {SUMS} beside it says", file.display())),
            Err(error) => damage.push(error.to_string()),
        }
    }
    // No parity brings any of it back.
    verified.is_beyond |= !damage.is_empty();
    verified.damage.extend(damage);
}

/// Copies the program, unless it lies there already; answers its digest.
fn copy_binary(from: &Path, to: &Path) -> Result<Digest> {
    let hash = |path: &Path| -> Result<Digest> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        let (mut hasher, mut buffer) = (Hasher::sha256(), vec![0; CHUNK]);
        loop {
            let read = file.read(&mut buffer).map_err(Error::io(path))?;
            if read == 0 {
                return Ok(hasher.finish());
            }
            hasher.update(buffer.get(..read).unwrap_or_default());
        }
    };
    let digest = hash(from)?;
    if to.exists() && hash(to)? == digest {
        return Ok(digest);
    }
    let partial = to.with_extension("partial");
    std::fs::copy(from, &partial).map_err(Error::io(&partial))?;
    // FAT has no modes and refuses to be given one; it shows every file as one that may be run.
    let _ = std::fs::set_permissions(&partial, std::fs::Permissions::from_mode(0o755));
    File::open(&partial).and_then(|file| file.sync_all()).map_err(Error::io(&partial))?;
    std::fs::rename(&partial, to).map_err(Error::io(to))?;
    Ok(digest)
}

fn readme(packed: &Packed, key: &str, suffix: &str, has_seed: bool) -> String {
    let Packed { id, words, fingerprint, of, .. } = packed;
    let first = crate::volume_name(1, suffix);
    let last = crate::volume_name(*of, suffix);
    let hex = id.hex();
    let (mut seed, mut seed_ko) = (String::new(), String::new());
    if has_seed {
        seed =
            format!("A bare node:        ctr -n k8s.io images import {SEED}   (or docker load -i, podman load -i)\n");
        seed_ko =
            format!("서버 없는 노드: ctr -n k8s.io images import {SEED}   (또는 docker load -i, podman load -i)\n");
    }
    format!(
        "A BUNDLE OF NARU\n\
         \n\
         {of} volume(s): {first} to {last}. Each is a plain tar, signed, and can be checked and loaded alone.\n\
         The bundle's name, to compare by telephone or on paper:\n\
         \n    {words}\n    {hex}\n\
         \n\
         Signed by key {fingerprint}, which in full is\n\
         \n    {key}\n\
         \n\
         Compare the fingerprint with what `naru pack` printed, not only with this file; then: ./naru key trust {key}\n\
         What is in it: CONTENTS.html, CONTENTS.csv. Checksums: SHA256SUMS (sha256sum -c SHA256SUMS).\n\
         \n\
         To check it:        ./naru verify .\n\
         To load it:         ./naru load .\n\
         To serve it:        ./naru serve\n\
         Without loading it: ./naru serve --bundle .\n\
         To set a node up:   ./naru setup containerd   (or docker, podman)\n\
         {seed}\
         If ./naru may not be run from this medium, copy it to where it may: cp naru /tmp && chmod +x /tmp/naru\n\
         A missing or damaged volume is named; load the rest now, and that volume when you have it.\n\
         \n\
         \n\
         나루 번들\n\
         \n\
         볼륨 {of}개: {first}부터 {last}까지. 각 볼륨은 서명된 일반 tar 파일이며, 따로 검증하고 실을 수 있습니다.\n\
         번들의 이름(전화나 종이로 대조하십시오)은 위의 여덟 단어입니다. 서명 키: {fingerprint}\n\
         지문을 이 파일이 아니라 `naru pack`이 출력한 것과 대조한 뒤: ./naru key trust {key}\n\
         내용 목록: CONTENTS.html, CONTENTS.csv. 체크섬: SHA256SUMS (sha256sum -c SHA256SUMS)\n\
         \n\
         검증:        ./naru verify .\n\
         싣기:        ./naru load .\n\
         제공:        ./naru serve\n\
         싣지 않고 제공: ./naru serve --bundle .\n\
         노드 설정:   ./naru setup containerd   (또는 docker, podman)\n\
         {seed_ko}\
         이 매체에서 ./naru를 실행할 수 없으면 다른 곳에 복사해 실행하십시오: cp naru /tmp && chmod +x /tmp/naru\n\
         빠지거나 손상된 볼륨은 이름을 알려 줍니다. 나머지를 먼저 싣고, 그 볼륨은 나중에 실으면 됩니다.\n"
    )
}
