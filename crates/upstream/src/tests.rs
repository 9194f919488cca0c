//! A future that cannot cross threads would be found by our callers only.
use crate::*;
async fn _sendable(
    client: Client,
    reference: Reference,
    url: Url,
    repository: Repository,
    blob: Descriptor,
    mut sink: impl Sink,
) {
    fn is_send(_: impl Send) {}
    is_send(client.resolve(&reference));
    is_send(client.head(&url));
    is_send(client.document(&url, 3));
    is_send(client.manifest(&repository, &blob.digest));
    is_send(client.tagged(&repository, "x"));
    is_send(client.referrers(&repository, &blob.digest));
    is_send(client.blob(&repository, &blob, &mut sink));
    is_send(client.file(&url, None, &mut sink));
    is_send(client.pinned_file(&url, None, &blob.digest, &mut sink));
}
