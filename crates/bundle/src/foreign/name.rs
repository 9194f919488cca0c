//! What an image of an archive is called here.
//!
//! A name is normalised as docker does: `app:1` is `docker.io/library/app:1`. Podman writes `localhost/app:1` for what
//! came from no registry, and so do we: it is the local `app:1`. Another name is given by `--as`.

use std::str::FromStr;

use artifact::{Reference, Repository};

use super::image::Image;

/// `--as image:NAME[:TAG]`: what to call what an archive holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct As {
    repository: Repository,
    /// Without one, every image keeps its tag.
    tag: Option<String>,
}

impl FromStr for As {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = text.split_once(':').ok_or("expected image:NAME, as image:registry.example/app:1")?;
        match kind.parse::<artifact::Kind>()? {
            artifact::Kind::Image => {}
            kind => return Err(format!("archives of kind {kind} are not read yet; expected image:NAME")),
        }
        let reference: Reference = name.parse().map_err(|error: artifact::InvalidReference| error.to_string())?;
        if reference.digest().is_some() {
            return Err("a digest is what it is, and cannot be given".to_owned());
        }
        let has_tag = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
        let tag = reference.tag().filter(|_| has_tag).map(str::to_owned);
        Ok(Self { repository: repository(&reference), tag })
    }
}

impl As {
    /// Whether it names one image only.
    pub(super) fn has_tag(&self) -> bool {
        self.tag.is_some()
    }
}

/// A name in the store, and what the archive has written for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// As the archive has it; empty when it has none.
    pub(super) written: String,
    /// The repository.
    pub(super) repository: Repository,
    /// The tag, or the digest of an image that has no tag.
    pub(super) entry: String,
}

/// The names under which an image comes.
pub(super) fn names(image: &Image, given: Option<&As>) -> Result<Vec<Name>, String> {
    if image.is_referrer() {
        return Ok(Vec::new());
    }
    if let Some(As { repository, tag }) = given {
        let name = |written: &str, tag: String| Name {
            written: written.to_owned(),
            repository: repository.clone(),
            entry: tag,
        };
        if let Some(tag) = tag {
            return Ok(vec![name(&image.shown(), tag.clone())]);
        }
        let mut names = Vec::new();
        for written in &image.names {
            names.push(name(written, own(written, image)?.entry));
        }
        names.extend(image.tags.iter().map(|tag| name(tag, tag.clone())));
        if names.is_empty() {
            names.push(name("", "latest".to_owned()));
        }
        names.dedup_by(|one, other| one.entry == other.entry);
        return Ok(names);
    }
    if image.names.is_empty() {
        let what = if image.tags.is_empty() { "no name" } else { "a tag, but no name" };
        return Err(format!("it has {what}; load it by itself, with --as image:NAME"));
    }
    image.names.iter().map(|written| own(written, image)).collect()
}

fn own(written: &str, image: &Image) -> Result<Name, String> {
    let reference: Reference = written.parse().map_err(|error: artifact::InvalidReference| error.to_string())?;
    if let Some(digest) = reference.digest().filter(|digest| **digest != image.digest) {
        return Err(format!("its name is of {digest}, and its bytes of {}", image.digest));
    }
    Ok(Name { written: written.to_owned(), repository: repository(&reference), entry: reference.entry_name() })
}

fn repository(reference: &Reference) -> Repository {
    let host = if reference.host() == "localhost" { "" } else { reference.host() };
    Repository::image(host, reference.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_is_called_here() {
        let named = |text: &str| {
            let reference: Reference = text.parse().unwrap();
            format!("{}:{}", repository(&reference), reference.entry_name())
        };
        assert_eq!(named("app:1"), "docker.io/library/app:1");
        assert_eq!(named("localhost/app:1"), "app:1");
        assert_eq!(named("localhost:5000/app"), "localhost:5000/app:latest");
    }

    #[test]
    fn another_name() {
        let given: As = "image:registry.example:5000/team/app:2".parse().unwrap();
        assert_eq!(
            (given.repository.to_string().as_str(), given.tag.as_deref()),
            ("registry.example:5000/team/app", Some("2"))
        );
        let given: As = "image:registry.example:5000/team/app".parse().unwrap();
        assert!(!given.has_tag());
        for bad in ["app", "image:", "rpm:x", "nothing:x", "image:A", "image:a@sha256:00"] {
            assert!(bad.parse::<As>().is_err(), "{bad}");
        }
    }
}
