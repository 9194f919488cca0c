//! Counters, and Prometheus' text of them. Counting is one relaxed addition; nothing here is ever locked.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use store::Usage;

/// What a request was for; labels of `naru_http_requests_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Ping,
    Token,
    Catalog,
    Manifest,
    Blob,
    Tags,
    Referrers,
    Upload,
    File,
    Page,
    Health,
    Other,
}

impl Route {
    const ALL: [Self; 12] = [
        Self::Ping,
        Self::Token,
        Self::Catalog,
        Self::Manifest,
        Self::Blob,
        Self::Tags,
        Self::Referrers,
        Self::Upload,
        Self::File,
        Self::Page,
        Self::Health,
        Self::Other,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Token => "token",
            Self::Catalog => "catalog",
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Tags => "tags",
            Self::Referrers => "referrers",
            Self::Upload => "upload",
            Self::File => "file",
            Self::Page => "page",
            Self::Health => "health",
            Self::Other => "other",
        }
    }
}

/// What became of what was asked of a repository whose upstream is asked for what is not here; labels of
/// `naru_proxy_requests_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proxied {
    /// A tag that is here, and news of it was not wanted or not other.
    Hit,
    /// It came from the upstream.
    Miss,
    /// A tag that is here, because its upstream gave no news.
    Stale,
    /// It could not be had.
    Failed,
}

impl Proxied {
    const ALL: [(Self, &'static str); 4] =
        [(Self::Hit, "hit"), (Self::Miss, "miss"), (Self::Stale, "stale"), (Self::Failed, "failed")];
}

/// Statuses from 100 to 599.
const STATUSES: usize = 500;

/// Every counter of a server.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: Vec<AtomicU64>,
    bytes_out: AtomicU64,
    bytes_in: AtomicU64,
    warm: AtomicU64,
    cold: AtomicU64,
    ambiguous: AtomicU64,
    log_dropped: AtomicU64,
    connections: AtomicU64,
    open: AtomicU64,
    made_room: AtomicU64,
    proxied: [AtomicU64; Proxied::ALL.len()],
    upstream_requests: AtomicU64,
    upstream_failures: AtomicU64,
    upstream_bytes: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: (0..Route::ALL.len() * STATUSES).map(|_| AtomicU64::new(0)).collect(),
            bytes_out: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            warm: AtomicU64::new(0),
            cold: AtomicU64::new(0),
            ambiguous: AtomicU64::new(0),
            log_dropped: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            made_room: AtomicU64::new(0),
            proxied: Default::default(),
            upstream_requests: AtomicU64::new(0),
            upstream_failures: AtomicU64::new(0),
            upstream_bytes: AtomicU64::new(0),
        }
    }
}

impl Metrics {
    pub(crate) fn request(&self, route: Route, status: u16) {
        let status = usize::from(status).saturating_sub(100).min(STATUSES - 1);
        if let Some(counter) = self.requests.get(route as usize * STATUSES + status) {
            counter.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn warm(&self) {
        self.warm.fetch_add(1, Relaxed);
    }

    pub(crate) fn cold(&self) {
        self.cold.fetch_add(1, Relaxed);
    }

    pub(crate) fn ambiguous(&self) {
        self.ambiguous.fetch_add(1, Relaxed);
    }

    pub(crate) fn log_line_dropped(&self) {
        self.log_dropped.fetch_add(1, Relaxed);
    }

    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
    }

    pub(crate) fn disconnected(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    pub(crate) fn made_room(&self) {
        self.made_room.fetch_add(1, Relaxed);
    }

    pub(crate) fn proxied(&self, what: Proxied) {
        if let Some(counter) = self.proxied.get(what as usize) {
            counter.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn asked_upstream(&self) {
        self.upstream_requests.fetch_add(1, Relaxed);
    }

    pub(crate) fn upstream_failed(&self) {
        self.upstream_failures.fetch_add(1, Relaxed);
    }

    pub(crate) fn received_from_upstream(&self, bytes: u64) {
        self.upstream_bytes.fetch_add(bytes, Relaxed);
    }

    /// Prometheus' text format, version 0.0.4.
    pub(crate) fn render(&self, has_stopped: bool, usage: Option<&Usage>) -> String {
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, values: &[(String, u64)]| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let mut requests = Vec::new();
        for route in Route::ALL {
            let counters = self.requests.iter().skip(route as usize * STATUSES).take(STATUSES);
            for (status, count) in counters.map(|counter| counter.load(Relaxed)).enumerate().filter(|(_, n)| *n > 0) {
                requests.push((format!("{{route=\"{}\",status=\"{}\"}}", route.as_str(), status + 100), count));
            }
        }
        let one = |counter: &AtomicU64| vec![(String::new(), counter.load(Relaxed))];
        let value = |number: i64| vec![(String::new(), number.cast_unsigned())];
        family("naru_http_requests_total", "counter", "Requests answered, by route and status.", &requests);
        family("naru_http_sent_bytes_total", "counter", "Bytes of answers' bodies.", &one(&self.bytes_out));
        family("naru_http_received_bytes_total", "counter", "Bytes of uploads.", &one(&self.bytes_in));
        family("naru_http_connections_total", "counter", "Connections accepted.", &one(&self.connections));
        family("naru_http_connections", "gauge", "Connections open now.", &one(&self.open));
        let made_room = one(&self.made_room);
        family("naru_http_connections_crowded_out_total", "counter", "Waiting ones closed for others.", &made_room);
        let cache = [
            ("{result=\"hit\"}".to_owned(), self.warm.load(Relaxed)),
            ("{result=\"miss\"}".to_owned(), self.cold.load(Relaxed)),
        ];
        family("naru_cache_requests_total", "counter", "Pulls answered from memory, and not.", &cache);
        family(
            "naru_ambiguous_names_total",
            "counter",
            "Pulls whose name several upstreams have.",
            &one(&self.ambiguous),
        );
        let proxied = Proxied::ALL.map(|(what, name)| {
            let count = self.proxied.get(what as usize).map_or(0, |counter| counter.load(Relaxed));
            (format!("{{result=\"{name}\"}}"), count)
        });
        family("naru_proxy_requests_total", "counter", "Tags, manifests and blobs asked of the proxy.", &proxied);
        let (asked, failed) = (one(&self.upstream_requests), one(&self.upstream_failures));
        family("naru_upstream_requests_total", "counter", "Questions to upstreams.", &asked);
        family("naru_upstream_failures_total", "counter", "Those that were not answered, or wrongly.", &failed);
        family(
            "naru_upstream_received_bytes_total",
            "counter",
            "Bytes of upstreams' blobs.",
            &one(&self.upstream_bytes),
        );
        family(
            "naru_access_log_dropped_total",
            "counter",
            "Lines that the access log could not take.",
            &one(&self.log_dropped),
        );
        let stopped = value(i64::from(has_stopped));
        family("naru_store_stopped", "gauge", "1 once its disk failed to sync: nothing more is written.", &stopped);
        if let Some(usage) = usage {
            family("naru_store_repositories", "gauge", "Repositories.", &value(usage.repositories));
            family("naru_store_entries", "gauge", "Entries.", &value(usage.entries));
            family("naru_store_manifests", "gauge", "Manifests.", &value(usage.manifests));
            family("naru_store_blobs", "gauge", "Blobs.", &value(usage.blobs));
            family("naru_store_bytes", "gauge", "Bytes of the blobs.", &value(usage.bytes));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_shown() {
        let metrics = Metrics::default();
        metrics.request(Route::Manifest, 200);
        metrics.request(Route::Other, 599);
        metrics.request(Route::Other, 999);
        metrics.sent(7);
        let text = metrics.render(false, Some(&Usage { bytes: 9, ..Usage::default() }));
        assert!(text.contains("naru_http_requests_total{route=\"manifest\",status=\"200\"} 1\n"), "{text}");
        assert!(text.contains("naru_http_requests_total{route=\"other\",status=\"599\"} 2\n"));
        assert!(text.contains("\nnaru_http_sent_bytes_total 7\n") && text.contains("\nnaru_store_bytes 9\n"));
        assert!(text.contains("naru_proxy_requests_total{result=\"stale\"} 0\n"), "{text}");
        assert!(text.contains("\nnaru_store_stopped 0\n"), "{text}");
        assert!(Proxied::ALL.iter().enumerate().all(|(index, (what, _))| *what as usize == index));
        assert!(Route::ALL.iter().enumerate().all(|(index, route)| *route as usize == index));
    }
}
