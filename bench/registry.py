"""What a registry does besides being pulled from: pushes, long lists, proxying, collecting garbage."""

import base64
import concurrent.futures
import hashlib
import http.client
import json
import multiprocessing
import os
import pathlib
import re
import shlex
import shutil
import sqlite3
import statistics
import subprocess
import time

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
GIB = 1 << 30
# Not fork: whoever runs a server would hand its pipes on.
WORKERS = multiprocessing.get_context("spawn")


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def ask(connection, method, path, body, headers):
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    answer.read()
    if answer.status >= 300:
        raise SystemExit(f"{method} {path}: {answer.status}")
    return answer


def push_small(port, headers, names, until=None):
    """Images of one layer of 4 KiB and a config, each of them new; as many as there are names, or until a time."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    pushed = 0
    for name in names:
        if until and time.time() > until:
            break
        repository = f"small/{name}"
        layer = os.urandom(4096)
        config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [sha256(layer)]}}).encode()
        for blob in (config, layer):
            place = ask(connection, "POST", f"/v2/{repository}/blobs/uploads/", b"", headers).headers["Location"]
            place += ("&" if "?" in place else "?") + "digest=" + sha256(blob)
            ask(connection, "PUT", place, blob, {**headers, "Content-Type": "application/octet-stream"})
        describe = lambda kind, blob: {"mediaType": f"application/vnd.oci.image.{kind}", "digest": sha256(blob), "size": len(blob)}
        manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": describe("config.v1+json", config),
                               "layers": [describe("layer.v1.tar", layer)]})
        ask(connection, "PUT", f"/v2/{repository}/manifests/1", manifest, {**headers, "Content-Type": MANIFEST})
        pushed += 1
    return pushed


def push_blobs(port, headers, repository, count):
    """So many blobs that no image needs."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for _ in range(count):
        blob = os.urandom(64)
        place = ask(connection, "POST", f"/v2/{repository}/blobs/uploads/", b"", headers).headers["Location"]
        place += ("&" if "?" in place else "?") + "digest=" + sha256(blob)
        ask(connection, "PUT", place, blob, {**headers, "Content-Type": "application/octet-stream"})


def together(work, arguments):
    """The same by several processes at once: the seconds, and what each of them gave."""
    with concurrent.futures.ProcessPoolExecutor(len(arguments), mp_context=WORKERS) as pool:
        list(pool.map(abs, range(len(arguments) * 2)))
        begun = time.monotonic()
        results = [each.result() for each in [pool.submit(work, *each) for each in arguments]]
        return time.monotonic() - begun, results


class Registry:
    def __init__(self, bench, free_port, cpu):
        self.bench, self.free_port, self.cpu = bench, free_port, cpu
        self.work = bench.work

    def naru(self, store, configuration=None):
        """A server of a store: its process, its port, and the header by which it knows the administrator."""
        port = self.free_port()
        begun = time.monotonic()
        extra = ["--config", str(configuration)] if configuration else []
        server = self.bench.start([str(self.bench.naru), "serve", "--store", store, "--listen", f"127.0.0.1:{port}", *extra], f"{store}.log")
        self.bench.wait(f"http://127.0.0.1:{port}/readyz")
        self.started = time.monotonic() - begun
        token = (self.work / store / "admin.token").read_text().strip()
        return server, port, {"Authorization": "Basic " + base64.b64encode(f"admin:{token}".encode()).decode()}

    def peer(self, name, peer="docker-registry.yml", upstream=""):
        port = self.free_port()
        text = (pathlib.Path(__file__).parent / "peers" / peer).read_text()
        for mark, value in {"ROOT": self.work / name, "PORT": port, "UPSTREAM": upstream}.items():
            text = text.replace(f"@{mark}@", str(value))
        (self.work / f"{name}.yml").write_text(text)
        server = self.bench.start(["docker-registry", "serve", f"{name}.yml"], f"{name}.log")
        self.bench.wait(f"http://127.0.0.1:{port}/v2/")
        return server, port

    def end(self, server):
        server.terminate()
        server.wait()
        self.bench.processes.remove(server)

    def latency(self, url, connections=1, seconds=None, script=None, environment=None):
        """Requests a second, and the median and the 99th percentile in milliseconds."""
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds or self.bench.seconds}s", "--latency", "-H", f"Accept: {MANIFEST}"]
        command += ["-s", str(pathlib.Path(__file__).parent / script)] if script else []
        self.bench.commands.append(shlex.join([*command[:-1], f"bench/{script}", url] if script else [*command, url]))
        said = subprocess.check_output([*command, url], text=True, env={**self.bench.environment, **(environment or {})})
        if "Non-2xx" in said or re.search(r" 0 requests in", said):
            raise SystemExit(f"{url}: {said}")
        unit = {"us": 0.001, "ms": 1, "s": 1000}
        at = lambda share: (lambda found: float(found[1]) * unit[found[2]])(re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", said))
        return float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]), at(50), at(99)

    def pushes(self):
        """One large layer by one PUT; many small images; both beside the same by docker-registry."""
        server, port, headers = self.naru("pushed")
        peer, peer_port = self.peer("pushed-peer")
        path, size = self.work / "layer-0", (self.work / "layer-0").stat().st_size

        def put(port, process, headers, n):
            # Another digest each time, by one byte more.
            with open(path, "ab") as file:
                file.write(b"x")
            digest = "sha256:" + hashlib.file_digest(open(path, "rb"), "sha256").hexdigest()
            connection = http.client.HTTPConnection("127.0.0.1", port)
            place = ask(connection, "POST", f"/v2/large/{n}/blobs/uploads/", b"", headers).headers["Location"]
            place = place if place.startswith("http") else f"http://127.0.0.1:{port}{place}"
            url = place + ("&" if "?" in place else "?") + f"digest={digest}"
            given = [part for key, value in headers.items() for part in ("-H", f"{key}: {value}")]
            before, begun = self.cpu(process.pid), time.monotonic()
            subprocess.run(["curl", "-sf", "--noproxy", "*", "-o", "/dev/null", "-H", "Content-Type: application/octet-stream", *given, "-T", path, url], check=True)
            return time.monotonic() - begun, self.cpu(process.pid) - before

        self.bench.commands.append("curl -sf -H 'Content-Type: application/octet-stream' -T LAYER UPLOAD?digest=DIGEST")
        results = []
        for n in range(1 if self.bench.quick else 3):
            theirs = put(peer_port, peer, {}, n)
            ours = put(port, server, headers, n)
            before, begun = os.times(), time.monotonic()
            subprocess.run(["openssl", "dgst", "-sha256", str(path)], check=True, stdout=subprocess.DEVNULL)
            after = os.times()
            floor = after.children_user + after.children_system - before.children_user - before.children_system
            results.append((ours[0] / theirs[0], ours, theirs, floor))
        ratio, ours, theirs, floor = sorted(results)[len(results) // 2]
        words = f"push of {size / GIB:.2g} GiB by one PUT, durable"
        self.bench.row(words, f"{ours[0]:.2f} s", f"docker-registry (not durable) {theirs[0]:.2f} s", f"{ratio:.2f}×", "≤ 0.5×")
        self.bench.row(words + ": server CPU", f"{ours[1]:.2f} s", f"openssl sha256 {floor:.2f} s", f"{ours[1] / floor:.2f}×", "≤ 2×")

        count, workers = 200 if self.bench.quick else 1000, 8
        names = [[f"{worker}-{n}" for n in range(count // workers)] for worker in range(workers)]
        theirs, _ = together(push_small, [(peer_port, {}, each) for each in names])
        ours, _ = together(push_small, [(port, headers, each) for each in names])
        self.bench.row(f"push of {count} small images, {workers} clients", f"{count / ours:.0f}/s", f"docker-registry (not durable) {count / theirs:.0f}/s", f"{theirs / ours:.2f}×", "")
        self.mixed(port, headers, peer_port)
        self.end(server)
        self.end(peer)

    def mixed(self, port, headers, peer_port):
        """Pulls of what was just pushed, while four push."""
        results = []
        for where, known, in [(port, headers), (peer_port, {})]:
            names = [[f"mixed-{worker}-{n}" for n in range(100_000)] for worker in range(4)]
            with concurrent.futures.ProcessPoolExecutor(4, mp_context=WORKERS) as pool:
                list(pool.map(abs, range(8)))
                until = time.time() + self.bench.seconds
                pushing = [pool.submit(push_small, where, known, each, until) for each in names]
                rate, _, slow = self.latency(f"http://127.0.0.1:{where}/v2/small/0-0/manifests/1", connections=16)
                results.append((rate, slow, sum(each.result() for each in pushing) / self.bench.seconds))
        (ours, slow, pushed), (theirs, their_slow, their_pushed) = results
        self.bench.row("pulls of a manifest by 16 while 4 push", f"{ours:.0f}/s, p99 {slow:.1f} ms", f"docker-registry {theirs:.0f}/s, p99 {their_slow:.1f} ms", f"{ours / theirs:.1f}×", "")
        self.bench.row("small images that the 4 push meanwhile", f"{pushed:.0f}/s", f"docker-registry {their_pushed:.0f}/s", f"{pushed / their_pushed:.2f}×", "")

    def proxying(self):
        """The first byte of what is not here, and the answers for what is."""
        upstream = self.bench.upstream
        first, hits = {"naru": [], "peer": []}, {"naru": [], "peer": []}
        (self.work / "proxy.yaml").write_text(f"upstreams:\n  '{upstream}': {{ proxy: check }}\n")
        for n in range(1 if self.bench.quick else 3):
            for who in first:
                if who == "naru":
                    server, port, _ = self.naru(f"proxying-{n}", self.work / "proxy.yaml")
                    name = f"/v2/{upstream}/library/app"
                else:
                    server, port = self.peer(f"proxying-peer-{n}", "docker-registry-proxy.yml", upstream)
                    name = "/v2/library/app"
                get = lambda path: subprocess.check_output(
                    ["curl", "-sf", "--noproxy", "*", "-H", f"Accept: {MANIFEST}", "-o", "/dev/null", "-w", "%{time_starttransfer} %{time_total}", f"http://127.0.0.1:{port}{name}{path}"], text=True).split()
                tag = float(get("/manifests/1")[0])
                byte, total = map(float, get(f"/blobs/{self.bench.large[1]}"))
                get(f"/blobs/{self.bench.small[1]}")
                # Until the proxy has put it down.
                time.sleep(1)
                first[who].append((tag, byte, total))
                hits[who].append((*self.latency(f"http://127.0.0.1:{port}{name}/manifests/1", seconds=3)[1:],
                                  *self.latency(f"http://127.0.0.1:{port}{name}/blobs/{self.bench.small[1]}", seconds=3)[1:]))
                self.end(server)
                shutil.rmtree(self.work / (f"proxying-{n}" if who == "naru" else f"proxying-peer-{n}"), ignore_errors=True)
        median = lambda rows: [statistics.median(each) for each in zip(*rows)]
        ours, theirs = median(first["naru"]), median(first["peer"])
        size = self.bench.large[2]
        for words, at in [("a manifest by tag", 0), (f"the first byte of a blob of {size / GIB:.2g} GiB", 1), ("all of its bytes", 2)]:
            self.bench.row(f"proxy, not here: {words}", f"{ours[at] * 1000:.1f} ms", f"docker-registry's proxy {theirs[at] * 1000:.1f} ms", f"{ours[at] / theirs[at]:.2f}×", "")
        ours, theirs = median(hits["naru"]), median(hits["peer"])
        for words, at in [("a manifest by tag", 0), ("a blob of 64 KiB", 2)]:
            self.bench.row(f"proxy, here: {words}, median (p99)", f"{ours[at]:.2f} ({ours[at + 1]:.2f}) ms", f"docker-registry's proxy {theirs[at]:.2f} ({theirs[at + 1]:.2f}) ms", f"{ours[at] / theirs[at]:.2f}×", "")

    def search(self, url):
        """One at a time: a search may take longer than wrk waits for a number."""
        times = [float(subprocess.check_output(["curl", "-sf", "--noproxy", "*", "-o", "/dev/null", "-w", "%{time_total}", url], text=True)) * 1000 for _ in range(5)]
        return statistics.median(times), max(times)

    def lists(self):
        """Lists and look-ups at a million entries, beside the same store with a thousand."""
        results = {}
        for count in (1000, 10_000 if self.bench.quick else 1_000_000):
            store = f"lists-{count}"
            server, port, headers = self.naru(store)
            push_small(port, headers, ["one"])
            self.end(server)
            # A million requests would take longer than all the rest: the same rows by the catalog's own language.
            db = sqlite3.connect(self.work / store / "naru.db")
            numbers = f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {count - 1}) "
            copied = "SELECT {}, digest, size, seen, origin, trust FROM n, (SELECT * FROM entry LIMIT 1)"
            db.executescript("BEGIN;" + f"""
                INSERT INTO repository (id, kind, host, name) {numbers} SELECT 100 + i, 'image', '', printf('many/%07d', i) FROM n;
                INSERT INTO repository (id, kind, host, name) VALUES (99, 'image', '', 'tags');
                INSERT INTO repository_manifest (repository, digest, renewed) {numbers} SELECT 100 + i, digest, renewed FROM n, (SELECT * FROM repository_manifest LIMIT 1);
                INSERT INTO repository_manifest (repository, digest, renewed) SELECT 99, digest, renewed FROM repository_manifest LIMIT 1;
                INSERT INTO entry (repository, name, digest, size, seen, origin, trust) {numbers} {copied.format("100 + i, '1'")};
                INSERT INTO entry (repository, name, digest, size, seen, origin, trust) {numbers} {copied.format("99, printf('%07d', i)")};
                COMMIT;""")
            db.close()
            server, port, _ = self.naru(store)
            base = f"http://127.0.0.1:{port}/v2"
            half = f"{count // 2:07d}"
            random = lambda path: self.latency(f"http://127.0.0.1:{port}/", script="random.lua", environment={"RANDOM_PATH": path, "RANDOM_NAMES": str(count)})
            results[count] = {
                "start": (self.started * 1000, self.started * 1000),
                "`_catalog?n=1000`, in the middle": self.latency(f"{base}/_catalog?n=1000&last=many/{half}", seconds=3)[1:],
                "`tags/list?n=1000`, in the middle": self.latency(f"{base}/tags/tags/list?n=1000&last={half}", seconds=3)[1:],
                "manifest by a tag at random, not in memory": random("/v2/tags/manifests/@?x=#")[1:],
                "manifest of a repository at random, not in memory": random("/v2/many/@/manifests/1?x=#")[1:],
                "search for a name": self.search(f"http://127.0.0.1:{port}/?q=many/{half}"),
            }
            self.end(server)
            shutil.rmtree(self.work / store)
        few, many = results.values()
        for words, (middle, slow) in many.items():
            bound = {"start": "< 1 s", "search for a name": "< 50 ms"}.get(words, "≤ 1.5× (p99)" if "random" in words else "")
            self.bench.row(f"{count:,} entries: {words}, median (p99)", f"{middle:.2f} ({slow:.2f}) ms", f"1,000 entries: {few[words][0]:.2f} ({few[words][1]:.2f}) ms", f"{slow / few[words][1]:.2f}×", bound)
        # docker-registry reads a folder a tag: it gets a tenth of them.
        fewer = count // 10
        peer, port = self.peer("lists-peer")
        push_small(port, {}, ["one"])
        tags = self.work / "lists-peer/docker/registry/v2/repositories/small/one/_manifests/tags"
        for n in range(fewer):
            os.makedirs(tags / f"{n:07d}" / "current")
        half = f"{fewer // 2:07d}"
        theirs = self.latency(f"http://127.0.0.1:{port}/v2/small/one/tags/list?n=1000&last={half}", seconds=3)[1]
        ours = many["`tags/list?n=1000`, in the middle"][0]
        self.bench.row(f"`tags/list?n=1000` of {count:,}", f"{ours:.2f} ms", f"docker-registry, of {fewer:,}: {theirs:.0f} ms", f"{ours / theirs:.3f}×", "")
        self.end(peer)
        shutil.rmtree(self.work / "lists-peer")

    def collection(self):
        """Blobs that nothing needs any more go, while others pull."""
        count, workers = 8000 if self.bench.quick else 100_000, 8
        server, port, headers = self.naru("collected")
        push_small(port, headers, ["kept"])
        layer = self.work / "www" / "small"
        seconds, _ = together(push_blobs, [(port, headers, "gone/blobs", count // workers)] * workers)
        self.bench.row(f"push of {count:,} blobs of 64 B, {workers} clients, durable", f"{count / seconds:,.0f}/s", "", "", "")
        url = f"http://127.0.0.1:{port}/v2/small/kept/manifests/1"
        _, _, quiet = self.latency(url, connections=4, seconds=5)
        begun = time.monotonic()
        gc = subprocess.Popen([str(self.bench.naru), "gc", "--grace", "0", "--store", "collected"], cwd=self.work, env=self.bench.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        slow = []
        while gc.poll() is None:
            slow.append(self.latency(url, connections=4, seconds=1)[2])
        seconds = time.monotonic() - begun
        if gc.returncode:
            raise SystemExit(f"naru gc: {gc.returncode}")
        self.end(server)
        left = sum(1 for _ in (self.work / "collected" / "blobs").glob("*/*/*"))
        if left > 10:
            raise SystemExit(f"{left} blobs are left")
        fewer = count // 5
        peer, peer_port = self.peer("collected-peer")
        together(push_blobs, [(peer_port, {}, "gone/blobs", fewer // workers)] * workers)
        push_small(peer_port, {}, ["kept"])
        self.end(peer)
        begun = time.monotonic()
        subprocess.run(["docker-registry", "garbage-collect", "collected-peer.yml"], cwd=self.work, env=self.bench.environment, check=True, capture_output=True)
        theirs = time.monotonic() - begun
        self.bench.commands.append("docker-registry garbage-collect CONFIG")
        self.bench.row(f"gc of {count:,} blobs, serving", f"{seconds:.1f} s, {count / seconds:,.0f}/s", f"docker-registry, {fewer:,}, stopped: {theirs:.1f} s, {fewer / theirs:,.0f}/s", f"{count / seconds / (fewer / theirs):.1f}×", "")
        self.bench.row("pulls meanwhile, 4 connections: worst p99 of a second", f"{max(slow):.2f} ms", f"before {quiet:.2f} ms", f"{max(slow) / quiet:.1f}×", "")
        for name in ("collected", "collected-peer"):
            shutil.rmtree(self.work / name)

    def all(self):
        self.pushes()
        self.proxying()
        self.lists()
        self.collection()
