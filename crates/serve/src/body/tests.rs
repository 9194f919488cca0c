use std::io::Write as _;

use http_body_util::BodyExt as _;

use super::*;

const SIZE: usize = 300_000;

/// A blob on a medium, in pieces of these sizes, each behind something else.
fn lying(bytes: &[u8], digest: Digest, sizes: &[usize]) -> Arc<OpenBlob> {
    let (mut rest, mut pieces) = (bytes, Vec::new());
    for size in sizes {
        let (these, others) = rest.split_at(*size);
        rest = others;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[b'x'; 1536]).unwrap();
        file.write_all(these).unwrap();
        file.write_all(&[b'y'; 700]).unwrap();
        pieces.push(Extent { path: "volume".into(), file: Arc::new(file), offset: 1536, size: *size as u64 });
    }
    assert!(rest.is_empty());
    Arc::new(OpenBlob::on_medium(digest, pieces))
}

/// What comes, and whether it ends well.
async fn read(blob: &Arc<OpenBlob>, start: u64, length: u64) -> (Vec<u8>, bool) {
    let mut body = Body::stretch(Arc::clone(blob), start, length);
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => all.extend_from_slice(&frame.into_data().unwrap()),
            Err(_) => return (all, false),
        }
    }
    (all, true)
}

fn content() -> Vec<u8> {
    (0..SIZE).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

#[tokio::test]
async fn what_is_right_is_proven_once() {
    let bytes = content();
    for sizes in [&[SIZE][..], &[1, 99_999, 200_000]] {
        let blob = lying(&bytes, Digest::of(&bytes), sizes);
        // From the middle: nobody need know the rest for that.
        assert_eq!(read(&blob, 1000, 70_000).await, (bytes[1000..71_000].to_vec(), true));
        assert!(!blob.is_proven());
        assert_eq!(read(&blob, 0, SIZE as u64).await, (bytes.clone(), true));
        assert!(blob.is_proven());
        assert_eq!(read(&blob, 99_990, 20).await, (bytes[99_990..100_010].to_vec(), true));
        let end = lying(&bytes, Digest::of(&bytes), sizes);
        assert_eq!(read(&end, SIZE as u64 - 5, 5).await, (bytes[SIZE - 5..].to_vec(), true));
        assert!(end.is_proven());
    }
}

#[tokio::test]
async fn what_is_wrong_is_never_completed() {
    let mut bytes = content();
    let digest = Digest::of(&bytes);
    bytes[7] ^= 1;
    let blob = lying(&bytes, digest, &[SIZE]);
    let (came, is_whole) = read(&blob, 0, SIZE as u64).await;
    assert!(!is_whole && came.len() == SIZE - 65_536, "{} bytes", came.len());
    assert!(blob.damage().unwrap().to_string().contains("volume"));
    // Its end alone, and all but the first byte, are held back too.
    for (start, length) in [(SIZE - 1, 1), (1, SIZE - 1)] {
        let blob = lying(&bytes, digest, &[1000, SIZE - 1000]);
        let (came, is_whole) = read(&blob, start as u64, length as u64).await;
        assert!(!is_whole && came.len() + 65_536 == length.max(65_536) && blob.damage().is_some());
    }
    let small = lying(b"small", Digest::of(b"other"), &[5]);
    assert_eq!(read(&small, 0, 5).await, (Vec::new(), false));
    // What is cut off ends badly, and says nothing of the rest.
    let short = lying(&content(), digest, &[SIZE]);
    short.pieces[0].file.set_len(100_000).unwrap();
    let (came, is_whole) = read(&short, 0, SIZE as u64).await;
    assert!(!is_whole && came == content()[..came.len()] && short.damage().is_none());
    let nothing = lying(b"", Digest::of(b""), &[0]);
    assert_eq!(read(&nothing, 0, 0).await, (Vec::new(), true));
}
