//! From archives into the store: blobs first, then what makes them images.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use artifact::{Digest, Entry, Progress, Repository, Trust};
use store::{Applied, Cause, Change, NewBlob, Store};

use super::archive::Tape;
use super::contents::{Contents, Part, beginning};
use super::image::{Blob, Image, Images, images, roots};
use super::name::{self, As, Name};
use super::piece::{Piece, Sort};
use super::stream::{self, Look, look};
use crate::load::say_what_shares_a_path;
use crate::together::Together;
use crate::{Error, LoadOptions, Result, key};

/// How deep archives may lie in archives.
const DEPTH: usize = 3;

/// What came in from one file, or from one folder that is a layout.
#[derive(Clone, Debug, Default)]
pub struct Imported {
    /// Where it was found.
    pub path: PathBuf,
    /// Images that came in whole.
    pub images: u64,
    /// What the archive calls an image, and what it is called here: only where they differ.
    pub renamed: Vec<(String, String)>,
    /// Platforms of an image that the archive does not hold, each in words.
    pub left_out: Vec<String>,
    /// What could not be loaded, each in words.
    pub refused: Vec<String>,
    /// Blobs that were written, and their bytes.
    pub written: (u64, u64),
    /// Blobs that were here already.
    pub present: u64,
    /// What changed.
    pub applied: Applied,
}

/// Loads archives and layouts. The files were opened by the caller, in the order of the pieces; volumes among them are
/// passed over.
///
/// # Errors
/// What keeps everything out. An archive that is damaged is an error when it is the only one, and else one of those in
/// [`Imported::refused`].
pub async fn import(
    store: &Store,
    pieces: Vec<(Piece, File)>,
    options: &LoadOptions,
    progress: &Arc<dyn Progress>,
) -> Result<Vec<Imported>> {
    if !options.unsigned && !key::trusted(store).await?.is_empty() {
        let unsigned = pieces.iter().find(|(piece, _)| piece.sort != Sort::Volume);
        if let Some((piece, _)) = unsigned {
            return Err(Error::Unsigned { path: piece.path.clone() });
        }
    }
    let mut archives = Vec::new();
    let mut layouts: BTreeMap<PathBuf, Vec<(String, File)>> = BTreeMap::new();
    for (Piece { path, sort }, file) in pieces {
        match sort {
            Sort::Volume | Sort::Unread(_) => {}
            Sort::Archive { named } => archives.push((path, named, file)),
            Sort::Layout(root) => {
                let name = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().into_owned();
                layouts.entry(root).or_default().push((name, file));
            }
        }
    }
    let alone = archives.len() + layouts.len() == 1;
    let mut all = Vec::new();
    let mut importing = Importing { store, options, progress, images: 0, here: Arc::new(()) };
    for (path, named, file) in archives {
        let mut imported = Imported { path: path.clone(), ..Imported::default() };
        let mut result = importing.archive(Part::of_file(&path, file)?, &mut imported).await;
        if matches!(result, Ok(())) && imported.images == 0 && imported.refused.is_empty() {
            if !named {
                progress.say(&format!("{}: an archive with no image in it, passed over", path.display()));
                continue;
            }
            result = Err(Error::Strange { path, what: "an archive with no image in it".to_owned() });
        }
        all.push(take(result, imported, alone)?);
    }
    for (root, files) in layouts {
        let mut imported = Imported { path: root.clone(), ..Imported::default() };
        let mut result = match Contents::of_folder(&root, files) {
            Ok(contents) => importing.contents(contents, &mut imported).await.map(drop),
            Err(error) => Err(error),
        };
        if matches!(result, Ok(())) && imported.images == 0 && imported.refused.is_empty() {
            result = Err(Error::Strange { path: root, what: "a layout with no image in it".to_owned() });
        }
        all.push(take(result, imported, alone)?);
    }
    Ok(all)
}

/// One archive that is damaged does not keep the others out; a full disk does.
fn take(result: Result<()>, mut imported: Imported, alone: bool) -> Result<Imported> {
    match result {
        Ok(()) => Ok(imported),
        Err(error @ (Error::Archive { .. } | Error::Strange { .. } | Error::Nameless { .. } | Error::Io { .. }))
            if !alone || imported.images > 0 =>
        {
            imported.refused.push(error.to_string());
            Ok(imported)
        }
        Err(error) => Err(error),
    }
}

struct Importing<'a> {
    store: &'a Store,
    options: &'a LoadOptions,
    progress: &'a Arc<dyn Progress>,
    /// Images that came in, from whatever file.
    images: u64,
    /// Dropped with the load: what is being unpacked then for nobody stops, and takes away what it wrote.
    here: Arc<()>,
}

/// What a worker brings.
enum Brought {
    Blob(NewBlob),
    Damage(Digest, String),
}

impl Importing<'_> {
    /// Loads an archive, and those that lie in it.
    async fn archive(&mut self, part: Part, imported: &mut Imported) -> Result<()> {
        let (mut waiting, mut members) = (vec![(part, 1)], 0);
        while let Some((part, depth)) = waiting.pop() {
            let (store, progress) = (self.store.clone(), Arc::clone(self.progress));
            let wanted = Arc::downgrade(&self.here);
            let opened = tokio::task::spawn_blocking(move || {
                let contents = opened(&part, &store, &mut members, &progress, wanted);
                // What was unpacked to get at this one is needed until its members have been read.
                contents.map(|contents| (contents, part, members))
            });
            let (contents, part, counted) = opened.await??;
            members = counted;
            let Some(contents) = contents else { continue };
            if let Some(mut package) = self.contents(contents, imported).await? {
                for name in package.names().map(str::to_owned).collect::<Vec<_>>() {
                    let is_archive = match package.find(&name) {
                        Ok(held) => matches!(look(&package.beginning(held)?), Look::Tar | Look::Compressed(_)),
                        Err(_) => false,
                    };
                    if !is_archive {
                        continue;
                    }
                    if depth == DEPTH {
                        let why = format!("`{name}` lies more than {DEPTH} archives deep, and was not opened");
                        imported.refused.push(format!("{}: {why}", package.path.display()));
                        continue;
                    }
                    let nested = package.taken(&name, self.store)?;
                    waiting.extend(nested.map(|nested| (nested, depth + 1)));
                }
            }
            drop(part);
        }
        Ok(())
    }

    /// Loads the images of an archive or a folder. Without any it is handed back: a package, perhaps.
    async fn contents(&mut self, contents: Contents, imported: &mut Imported) -> Result<Option<Contents>> {
        let found = tokio::task::spawn_blocking(move || {
            let mut found = Images::default();
            let roots = roots(&contents);
            for root in &roots {
                let Images { whole, refused } = images(&contents, root)?;
                found.whole.extend(whole);
                found.refused.extend(refused);
            }
            Ok::<_, Error>((contents, roots.is_empty(), found))
        });
        let (contents, is_empty, Images { whole, refused }) = found.await??;
        if is_empty {
            return Ok(Some(contents));
        }
        let path = contents.path.clone();
        imported.refused.extend(refused.into_iter().map(|why| format!("{}: {why}", path.display())));
        let given = self.options.rename.as_ref();
        let count = self.images + whole.iter().filter(|image| !image.is_referrer()).count() as u64;
        if given.is_some_and(As::has_tag) && count > 1 {
            return Err(Error::As { path, images: count });
        }
        if given.is_none() && !whole.is_empty() && whole.iter().all(|image| image.names.is_empty()) {
            let image = whole.first().map(Image::shown).unwrap_or_default();
            return Err(Error::Nameless { path, image });
        }
        let mut named = Vec::new();
        for image in whole {
            match name::names(&image, given) {
                Ok(names) => named.push((image, names)),
                Err(why) => imported.refused.push(format!("{}: {}: {why}", path.display(), image.shown())),
            }
        }
        let damaged = self.blobs(contents, &named, imported).await?;
        named.retain(|(image, _)| {
            let why = image.blobs.iter().find_map(|blob| damaged.get(&blob.digest));
            imported.refused.extend(why.map(|why| format!("{}: {}: {why}", path.display(), image.shown())));
            why.is_none()
        });
        self.entries(&path, named, imported).await?;
        Ok(None)
    }

    /// Brings every blob of these images that the store has not; answers those whose bytes are not right, and why.
    async fn blobs(
        &self,
        mut contents: Contents,
        images: &[(Image, Vec<Name>)],
        imported: &mut Imported,
    ) -> Result<HashMap<Digest, String>> {
        let (mut seen, mut work, mut there, mut here) = (HashSet::new(), Vec::new(), Change::new(), Vec::new());
        for blob in images.iter().flat_map(|(image, _)| &image.blobs) {
            if !seen.insert(blob.digest) {
                continue;
            }
            if self.store.blob(&blob.digest).await?.is_some() {
                here.push(blob.digest);
            } else if let Some(candidate) = contents.candidate(&blob.digest) {
                imported.written.0 += 1;
                imported.written.1 += candidate.size();
                there.blob(None, candidate);
            } else {
                work.push(blob.clone());
            }
        }
        self.store.apply(there).await?;
        imported.present += here.len() as u64;
        self.store.renew(here).await?;
        // The largest first: the last to finish should be a small one.
        work.sort_by_key(|blob| std::cmp::Reverse(blob.size));
        let total = work.iter().map(|blob| blob.size).sum::<u64>();
        let free = self.store.free_space()?;
        if total > free {
            return Err(Error::NoSpace { path: self.store.folder().to_owned(), needed: total, free });
        }
        self.progress.begin("load", total);
        let (store, progress) = (self.store.clone(), Arc::clone(self.progress));
        let bring = move |blob: &Blob| Ok(vec![bring(&store, &contents, blob, progress.as_ref())?]);
        let mut together = Together::begin(work, bring);
        let mut damaged = HashMap::new();
        loop {
            let group = together.group().await;
            if group.is_empty() {
                break;
            }
            let mut change = Change::new();
            for one in group {
                match one {
                    Brought::Blob(blob) => {
                        imported.written.0 += 1;
                        imported.written.1 += blob.size();
                        change.blob(None, blob);
                    }
                    Brought::Damage(digest, why) => drop(damaged.insert(digest, why)),
                }
            }
            self.store.apply(change).await?;
        }
        self.progress.end();
        together.end()?;
        Ok(damaged)
    }

    /// Makes the images visible, all of an archive's together.
    async fn entries(&mut self, path: &Path, images: Vec<(Image, Vec<Name>)>, imported: &mut Imported) -> Result<()> {
        let file = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let cause = Cause { action: "load".to_owned(), subject: file.clone(), by: self.options.by.clone() };
        let mut visible = Change::because(cause);
        // No upstream was asked, so there is no time to compare: what is loaded last is what the user means.
        visible.force();
        let mut taken: HashMap<(Repository, String), Digest> = HashMap::new();
        let mut homes: HashMap<Digest, Repository> = HashMap::new();
        let mut referrers = Vec::new();
        for (image, names) in images {
            if image.is_referrer() {
                referrers.push(image);
                continue;
            }
            let refuse = |why: &str| format!("{}: {}: {why}", path.display(), image.shown());
            let is_taken = |name: &&Name| {
                let key = (name.repository.clone(), name.entry.clone());
                taken.get(&key).is_some_and(|digest| *digest != image.digest)
            };
            if let Some(name) = names.iter().find(is_taken) {
                imported.refused.push(refuse(&format!("another one is called {} too", label(name))));
                continue;
            }
            for name in &names {
                taken.insert((name.repository.clone(), name.entry.clone()), image.digest);
                self.grant(&mut visible, &name.repository, &image).await?;
                homes.extend(image.documents.iter().map(|document| (document.digest, name.repository.clone())));
                let entry = Entry {
                    name: name.entry.clone(),
                    digest: image.digest,
                    size: image.documents.last().map_or(0, |document| document.bytes.len() as u64),
                    seen: 0,
                    origin: format!("archive {file}"),
                    trust: Trust::FirstUse,
                };
                visible.entry(&name.repository, entry);
                if name.written != label(name) {
                    imported.renamed.push((name.written.clone(), label(name)));
                }
            }
            let shown = image.shown();
            imported.left_out.extend(image.left_out.iter().map(|platform| format!("{shown}: {platform}")));
            imported.images += 1;
            self.images += 1;
        }
        for image in referrers {
            let home = image.subject.and_then(|subject| homes.get(&subject));
            let Some(repository) = home else {
                let why = "it refers to an image that is not in the archive";
                imported.refused.push(format!("{}: {}: {why}", path.display(), image.shown()));
                continue;
            };
            self.grant(&mut visible, repository, &image).await?;
        }
        let applied = self.store.apply(visible).await?;
        say_what_shares_a_path(self.store, &applied, self.progress.as_ref()).await?;
        imported.applied.generation = applied.generation.or(imported.applied.generation);
        imported.applied.replaced.extend(applied.replaced);
        Ok(())
    }

    async fn grant(&self, change: &mut Change, repository: &Repository, image: &Image) -> Result<()> {
        for blob in &image.blobs {
            // A platform that was left out may have had it.
            if self.store.blob(&blob.digest).await?.is_some() {
                change.grant_blob(repository, &blob.digest);
            }
        }
        for document in &image.documents {
            let omitted = document.omitted.iter().copied().collect();
            change.manifest(repository, &document.digest, document.bytes.clone(), &document.media_type, omitted);
        }
        Ok(())
    }
}

/// What is in a part that is an archive; `None`: it is none, however it is compressed.
fn opened(
    part: &Part,
    store: &Store,
    members: &mut usize,
    progress: &Arc<dyn Progress>,
    wanted: Weak<()>,
) -> Result<Option<Contents>> {
    let wrong = |error| Error::io(&part.path)(error);
    match look(&beginning(part.tape()?).map_err(wrong)?) {
        Look::Tar => Contents::of_tar(&part.path, part.tape()?, store, members).map(Some),
        Look::Compressed(compression) => {
            let unpacked = stream::open(part.tape()?, compression).and_then(beginning);
            if !matches!(unpacked.map(|start| look(&start)), Ok(Look::Tar)) {
                return Ok(None);
            }
            progress.begin("unpack", part.size);
            let told = Told { tape: part.tape()?, progress: Arc::clone(progress), wanted };
            let tape = stream::open(Tape::Stream(Box::new(told)), compression).map_err(wrong)?;
            let contents = Contents::of_tar(&part.path, tape, store, members);
            progress.end();
            contents.map(Some)
        }
        Look::Volume | Look::Other(_) => Ok(None),
    }
}

/// Brings one blob. Bytes that are not right are an answer; only our own disk is an error.
fn bring(store: &Store, contents: &Contents, blob: &Blob, progress: &dyn Progress) -> Result<Brought> {
    let damage = |why: String| Ok(Brought::Damage(blob.digest, why));
    let held = match contents.find(&blob.member) {
        Ok(held) => held,
        Err(why) => return damage(why),
    };
    let mut writer = store.writer(Some(&blob.digest))?;
    let streamed = contents.stream(held, |bytes| {
        progress.advance(bytes.len() as u64);
        Ok(writer.write(bytes)?)
    });
    match streamed {
        Ok(()) => {}
        Err(error @ Error::Store(_)) => return Err(error),
        Err(error) => return damage(error.to_string()),
    }
    match writer.finish() {
        Ok(blob) => Ok(Brought::Blob(blob)),
        Err(store::Error::Mismatch { found, .. }) => {
            damage(format!("`{}` is damaged: it is {found}, not {}", blob.member.escape_default(), blob.digest))
        }
        Err(error) => Err(error.into()),
    }
}

fn label(name: &Name) -> String {
    let Name { repository, entry, .. } = name;
    if entry.contains(':') { format!("{repository}@{entry}") } else { format!("{repository}:{entry}") }
}

/// Tells how much of a file was read, as long as somebody wants to know.
struct Told {
    tape: Tape,
    progress: Arc<dyn Progress>,
    wanted: Weak<()>,
}

impl Read for Told {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.wanted.strong_count() == 0 {
            return Err(std::io::Error::other("the load was ended"));
        }
        let read = self.tape.read(buffer)?;
        self.progress.advance(read as u64);
        Ok(read)
    }
}
