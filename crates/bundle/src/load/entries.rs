//! What becomes visible: entries that are whole, and what the others wait for.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use artifact::{Digest, Kind, Manifest};
use store::{Cause, Change, StoredManifest};

use super::blobs::covers;
use super::{Loaded, Loading, Pending, say_what_shares_a_path};
use crate::document::{Member, What};
use crate::tree::Tree;
use crate::verify::{Documents, manifest_bytes, shown, some};
use crate::volume::Volume;
use crate::{Plan, Result, volume_name};

/// Seconds by which another machine's clock may be ahead: a time zone that was set wrong is less.
const DAY: i64 = 24 * 60 * 60;

impl Loading<'_> {
    /// Makes visible what is whole, and says what is not.
    pub(super) async fn entries(
        &self,
        volumes: &Arc<Vec<Volume>>,
        documents: Documents,
        loaded: &mut Loaded,
    ) -> Result<()> {
        let Documents { plan, trees } = documents;
        // Who answers for what changed: the one who loads, and the one who signed.
        let by = match &loaded.trusted {
            Some(name) => format!("{}, signed by {} ({name})", self.options.by, loaded.fingerprint),
            None => format!("{}, signed by {} (no key is trusted)", self.options.by, loaded.fingerprint),
        };
        let cause = Cause { action: "load".to_owned(), subject: self.id.hex(), by };
        let mut visible = Change::because(cause);
        if self.options.force {
            visible.force();
        }
        let mut waiting: BTreeMap<Digest, BTreeSet<String>> = BTreeMap::new();
        let mut entries = 0;
        // An entry of a clock that was far ahead would keep every later one out.
        let (now, mut ahead) = (self.store.now(), 0_u64);
        let latest = now.saturating_add(DAY);
        for mut tree in trees {
            // There may be a million: each goes on to where it belongs.
            let named = std::mem::take(&mut tree.entries);
            let names = named.keys().cloned();
            loaded.names.get_or_insert_default().entry(tree.repository.clone()).or_default().extend(names);
            let graph = self.manifests(volumes, &tree).await?;
            for mut entry in named.into_values() {
                let (needed, holes) = self.holes(&tree, &graph, &entry.digest).await?;
                let shown = shown(&tree.repository, &entry.name);
                if holes.is_empty() {
                    loaded.entries += 1;
                    // What this side has made is never touched.
                    if tree.repository.is_local() {
                        let own = self.store.entry(&tree.repository, &entry.name).await?;
                        if own.is_some_and(|own| own.digest != entry.digest) {
                            self.progress.warn(&format!("{shown} is a local one here and stays as it is"));
                            continue;
                        }
                    }
                    for blob in needed {
                        visible.grant_blob(&tree.repository, &blob);
                    }
                    if entry.seen > latest {
                        ahead += 1;
                        entry.seen = now;
                    }
                    visible.entry(&tree.repository, entry);
                } else {
                    entries += 1;
                }
                for hole in holes {
                    waiting.entry(hole).or_default().insert(shown.clone());
                }
            }
            // What no entry names (a signature, an attestation) is granted what it needs, as far as it is here.
            for (parent, children) in &graph {
                if tree.manifests.contains_key(parent) {
                    for (child, is_manifest) in children {
                        if *is_manifest {
                            continue;
                        }
                        if self.store.blob(child).await?.is_some() {
                            visible.grant_blob(&tree.repository, child);
                        } else {
                            waiting.entry(*child).or_default().insert(shown(&tree.repository, &parent.to_string()));
                        }
                    }
                }
            }
        }
        if ahead > 0 {
            self.progress.warn(&format!(
                "{ahead} entries say that their upstream was asked more than a day from now: they are taken as of now; \
                 look at the clock there, and here"
            ));
        }
        loaded.applied = self.store.apply(visible).await?;
        say_what_shares_a_path(self.store, &loaded.applied, self.progress.as_ref()).await?;
        if waiting.is_empty() {
            self.store.set_document(&format!("loaded/{}", self.id.hex()), Some(b"")).await?;
            return self.set_pending(None).await;
        }
        // What lies in which volume is only asked now.
        let plan = self.recall().await?.map_or(plan, |remembered| remembered.plan);
        // Blobs were hashed when they were brought; a manifest that a volume has and nobody could read is damaged.
        for volume in volumes.iter() {
            let lacking = |member: &&Member| match member.what() {
                Some(What::Manifest(digest)) => waiting.contains_key(&digest),
                _ => false,
            };
            loaded.damage.extend(volume.head.members.iter().filter(lacking).map(|member| volume.damage(member)));
        }
        let mut on_disk: HashMap<Digest, Vec<(u64, u64)>> = HashMap::new();
        for digest in waiting.keys() {
            on_disk.insert(*digest, self.pieces(digest).await?);
        }
        let mut missing = missing(&plan, &waiting, &on_disk);
        if let Some(want) = self.want(&plan, volumes, &waiting).await? {
            let path = self.want_path();
            want.write(&path)?;
            missing.push(format!(
                "{} things, {} bytes, that no volume will bring: they are listed in {}",
                want.things.len(),
                want.bytes(),
                path.display()
            ));
            loaded.want = Some(path);
        }
        loaded.pending = Some(Pending { missing, entries: Some(entries) });
        self.set_pending(loaded.pending.as_ref()).await
    }

    /// Puts a tree's manifests into the catalog, children first, and answers what each points at within what is carried.
    async fn manifests(&self, volumes: &Arc<Vec<Volume>>, tree: &Tree) -> Result<HashMap<Digest, Vec<(Digest, bool)>>> {
        let mut graph: HashMap<Digest, Vec<(Digest, bool)>> = HashMap::new();
        let mut documents: HashMap<Digest, bytes::Bytes> = HashMap::new();
        for (digest, known) in &tree.manifests {
            // Of a disk that has changed it, it comes again.
            let sound = |there: Option<StoredManifest>| there.filter(StoredManifest::is_sound).map(|there| there.bytes);
            let bytes = match sound(self.store.granted_manifest(&tree.repository, digest).await?) {
                Some(bytes) => bytes,
                None => match manifest_bytes(volumes, digest) {
                    Some(bytes) => bytes.into(),
                    None => match sound(self.store.manifest(digest).await?) {
                        Some(bytes) => bytes,
                        None => continue,
                    },
                },
            };
            let read = Manifest::parse(&bytes, &known.media_type)
                .map_err(|source| store::Error::Manifest { digest: *digest, source })?;
            let carried = |child: &&artifact::Descriptor| !known.omitted.contains(&child.digest);
            let children = read.manifests.iter().filter(carried).map(|child| (child.digest, true));
            let blobs = read.blobs().filter(carried).map(|child| (child.digest, false));
            graph.insert(*digest, children.chain(blobs).collect());
            documents.insert(*digest, bytes);
        }
        let mut change = Change::new();
        for digest in children_first(&graph) {
            if let (Some(bytes), Some(known)) = (documents.remove(&digest), tree.manifests.get(&digest)) {
                let omitted = known.omitted.iter().copied().collect();
                change.manifest(&tree.repository, &digest, bytes, &known.media_type, omitted);
            }
        }
        self.store.apply(change).await?;
        Ok(graph)
    }

    /// The blobs that an entry needs, and what of it all is not here.
    async fn holes(
        &self,
        tree: &Tree,
        graph: &HashMap<Digest, Vec<(Digest, bool)>>,
        root: &Digest,
    ) -> Result<(Vec<Digest>, Vec<Digest>)> {
        let (mut needed, mut holes, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        let mut open = vec![(*root, tree.repository.kind == Kind::Image)];
        while let Some((digest, is_manifest)) = open.pop() {
            if !seen.insert(digest) {
                continue;
            }
            if is_manifest {
                match graph.get(&digest) {
                    Some(children) => open.extend(children),
                    None => holes.push(digest),
                }
            } else if self.store.blob(&digest).await?.is_some() {
                needed.push(digest);
            } else {
                holes.push(digest);
            }
        }
        Ok((needed, holes))
    }
}

/// Digests in an order in which children stand before their parents.
fn children_first(graph: &HashMap<Digest, Vec<(Digest, bool)>>) -> Vec<Digest> {
    let mut roots: Vec<&Digest> = graph.keys().collect();
    roots.sort();
    let (mut order, mut seen) = (Vec::with_capacity(graph.len()), HashSet::new());
    for root in roots {
        let mut open = vec![(*root, false)];
        while let Some((digest, done)) = open.pop() {
            if done {
                order.push(digest);
            } else if graph.contains_key(&digest) && seen.insert(digest) {
                open.push((digest, true));
                open.extend(
                    graph.get(&digest).into_iter().flatten().filter(|child| child.1).map(|child| (child.0, false)),
                );
            }
        }
    }
    order
}

/// What is missing, volume by volume.
fn missing(
    plan: &Plan,
    waiting: &BTreeMap<Digest, BTreeSet<String>>,
    on_disk: &HashMap<Digest, Vec<(u64, u64)>>,
) -> Vec<String> {
    let (mut said, mut named) = (Vec::new(), HashSet::new());
    for (number, members) in plan.volumes.iter().enumerate() {
        let mut needed_by = BTreeSet::new();
        let (mut count, mut bytes) = (0, 0);
        for member in members {
            if let Some(What::Blob(digest) | What::Part(digest) | What::Manifest(digest)) = member.what() {
                let is_on_disk = member.part.as_ref().is_some_and(|part| {
                    on_disk.get(&digest).is_some_and(|pieces| covers(pieces, part.at, member.size))
                });
                if let Some(entries) = waiting.get(&digest).filter(|_| !is_on_disk) {
                    named.insert(digest);
                    needed_by.extend(entries.iter().map(String::as_str));
                    count += 1;
                    bytes += member.size;
                }
            }
        }
        if count > 0 {
            let list: Vec<&str> = needed_by.into_iter().collect();
            let name = volume_name(number + 1, "");
            said.push(format!(
                "volume {} ({name}): {count} members, {bytes} bytes, needed by {}",
                number + 1,
                some(&list)
            ));
        }
    }
    let assumed: HashSet<Digest> = plan.assumes.iter().map(|assumed| assumed.digest).collect();
    let elsewhere = |digest: &Digest| !named.contains(digest) && !assumed.contains(digest);
    for (digest, entries) in waiting.iter().filter(|(digest, _)| elsewhere(digest)) {
        let list: Vec<&str> = entries.iter().map(String::as_str).collect();
        said.push(format!("{digest}, needed by {}", some(&list)));
    }
    said
}
