//! Clients that people use, and an attacker. The programs must be installed; `.ci/run` installs them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use reactor::Backend;

use super::site::{LARGE, Site};
use super::support::command::{Glowplug, Scratch};
use super::support::on_every_backend;

/// A server of the site, and the beginning of its URLs.
fn serve(backend: Backend, site: &Site, more: &str) -> (Glowplug, String) {
    let words = format!("http --port 0 --log-level off --root {} {more}", site.root().display());
    let server = Glowplug::start(backend, &words);
    let url = format!("http://{}", server.tcp());
    (server, url)
}

fn run(program: &str, words: &[&str], directory: &Path) -> Output {
    let mut command = Command::new(program);
    command.args(words).current_dir(directory).stdin(Stdio::null());
    command.output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// Returns the standard output of `curl`. Fails if curl fails.
fn curl(words: &[&str]) -> String {
    let words: Vec<&str> = ["-sS", "--max-time", "120"].iter().chain(words).copied().collect();
    let output = run("curl", &words, Path::new("/"));
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The status of the answer.
fn status(words: &[&str]) -> String {
    curl(&[&["-o", "/dev/null", "-w", "%{http_code}"], words].concat())
}

/// The number after `name` in a report of `ab` or `wrk`.
fn figure(report: &str, name: &str) -> f64 {
    let line = report.lines().find(|line| line.trim_start().starts_with(name));
    let line = line.unwrap_or_else(|| panic!("no {name:?} in {report}"));
    let number = line.trim_start()[name.len()..].split_whitespace().next().unwrap_or_default();
    number.parse().unwrap_or_else(|_| panic!("not a number: {line}"))
}

const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz";

on_every_backend! {
    #[ignore = "needs curl"]
    fn curl_in_all_its_ways(backend: Backend) {
        let (site, scratch) = (Site::new(), Scratch::new());
        let (_server, url) = serve(backend, &site, "--listing");
        let at = |path: &str| format!("{url}{path}");
        let letters = at("/letters");
        assert_eq!(curl(&[&letters]), LETTERS);
        assert_eq!(curl(&[&letters, &letters, &at("/dir/")]), format!("{LETTERS}{LETTERS}<h1>dir</h1>"));
        assert_eq!(curl(&["--http1.0", &letters]), LETTERS);
        assert_eq!(curl(&["--http0.9", &letters]), LETTERS);
        assert_eq!(curl(&["-L", &at("/dir")]), "<h1>dir</h1>");
        assert_eq!(curl(&["-g", &at("/sp%20ace.txt")]), "space");
        // Heads.
        let head = curl(&["-I", &letters]);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("\r\nContent-Length: 26\r\n"), "{head}");
        // Ranges and resuming.
        assert_eq!(curl(&["--range", "0-4", &letters]), "abcde");
        assert_eq!(curl(&["-r", "-3", &letters]), "xyz");
        assert_eq!(status(&["-r", "99-", &letters]), "416");
        let several = curl(&["-r", "0-0,1000-1001", &at("/large.bin")]);
        assert!(several.contains("Content-Range: bytes 1000-1001/300000"), "{several}");
        let part = scratch.join("part");
        let part_name = part.to_str().unwrap();
        let whole: String = (0..LARGE).map(|at| char::from(b'a' + (at % 26) as u8)).collect();
        for length in [0, 1, 150_000, LARGE] {
            fs::write(&part, &whole[..length]).unwrap();
            curl(&["-C", "-", "-o", part_name, &at("/large.bin")]);
            assert!(fs::read_to_string(&part).unwrap() == whole, "resumed at {length}");
        }
        // Conditions.
        assert_eq!(status(&["-z", "Sun, 06 Nov 1994 08:49:37 GMT", &letters]), "304");
        assert_eq!(status(&["-z", "Sun, 06 Nov 1994 08:49:36 GMT", &letters]), "200");
        assert_eq!(status(&["-z", "-Sun, 06 Nov 1994 08:49:36 GMT", &letters]), "412");
        let etag = scratch.join("etag");
        let etag = etag.to_str().unwrap();
        assert_eq!(status(&["--etag-save", etag, &letters]), "200");
        assert_eq!(status(&["--etag-compare", etag, &letters]), "304");
        // Encodings: the siblings here are not really compressed, so the test asks for brotli by hand, and makes a real
        // gzip sibling.
        assert_eq!(curl(&["-H", "Accept-Encoding: br", &at("/encoded.txt")]), "as brotli");
        let gzip = run("gzip", &["-k", "letters.txt"], &site.root());
        assert!(gzip.status.success());
        assert_eq!(curl(&["--compressed", &at("/letters.txt")]), LETTERS);
        // An upload that is refused.
        let upload = scratch.join("upload");
        fs::write(&upload, vec![b'x'; 900_000]).unwrap();
        assert_eq!(status(&["-T", upload.to_str().unwrap(), &at("/new.txt")]), "405");
        assert_eq!(status(&["-H", "Expect:", "-T", upload.to_str().unwrap(), &at("/new.txt")]), "405");
        assert_eq!(status(&["-H", "Transfer-Encoding: chunked", "-T", upload.to_str().unwrap(), &at("/x")]), "405");
        fs::write(&upload, vec![b'x'; 30_000_000]).unwrap();
        assert_eq!(status(&["-T", upload.to_str().unwrap(), &at("/new.txt")]), "413");
        assert_eq!(status(&["-H", "Expect:", "-T", upload.to_str().unwrap(), &at("/new.txt")]), "413");
        assert_eq!(status(&["-d", "a=b", &letters]), "405");
        assert_eq!(status(&["-X", "DELETE", &letters]), "405");
        assert_eq!(status(&["-X", "OPTIONS", "--request-target", "*", &url]), "200");
        // Paths exactly as given.
        for path in ["/../../etc/passwd", "/dir/../../outside/secret.txt", "//../outside/secret.txt"] {
            assert_eq!(status(&["--path-as-is", &at(path)]), "400", "{path}");
        }
        for path in ["/%2e%2e%2foutside%2fsecret.txt", "/outside/secret.txt", "/.hidden", "/fifo", "//etc/passwd"] {
            assert_eq!(status(&["--path-as-is", &at(path)]), "404", "{path}");
        }
        assert!(curl(&[&at("/list/")]).contains(">two &lt;b&gt;.txt</a>"));
        assert!(!site.path("root/new.txt").exists());
    }

    #[ignore = "needs wget"]
    fn wget_goes_on_where_it_stopped_and_takes_a_site_as_a_whole(backend: Backend) {
        let (site, scratch) = (Site::new(), Scratch::new());
        let (_server, url) = serve(backend, &site, "--listing");
        let whole = fs::read(site.path("root/large.bin")).unwrap();
        for length in [0, 100_000, LARGE] {
            fs::write(scratch.join("large.bin"), &whole[..length]).unwrap();
            let output = run("wget", &["-q", "-c", &format!("{url}/large.bin")], scratch.path());
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(fs::read(scratch.join("large.bin")).unwrap() == whole, "from {length}");
        }
        // Not newer than the local copy, so not fetched again.
        let output = run("wget", &["-nv", "-N", &format!("{url}/large.bin")], scratch.path());
        assert!(output.status.success());
        // Following the links of a listing.
        let output = run("wget", &["-q", "-r", "-nH", "-np", &format!("{url}/list/")], scratch.path());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for (path, content) in [("list/one.txt", "1"), ("list/two <b>.txt", "22"), ("list/sub/three.txt", "333")] {
            assert_eq!(fs::read_to_string(scratch.join(path)).unwrap(), content, "{path}");
        }
    }

    #[ignore = "needs ab (apache2-utils)"]
    fn ab_has_all_its_requests_answered(backend: Backend) {
        let site = Site::new();
        let (_server, url) = serve(backend, &site, "");
        // HTTP/1.0 with a connection for each request, with keep-alive, and a path that is no page.
        for (more, path, kept, refused) in [
            (&[][..], "/letters", 0.0, 0.0),
            (&["-k"], "/letters", 2000.0, 0.0),
            (&["-k"], "/large.bin", 2000.0, 0.0),
            (&["-k", "-i"], "/letters", 2000.0, 0.0),
            (&["-k"], "/nothing", 2000.0, 2000.0),
        ] {
            let target = format!("{url}{path}");
            let words = [&["-q", "-n", "2000", "-c", "50"], more, &[&target]].concat();
            let report = String::from_utf8(run("ab", &words, Path::new("/")).stdout).unwrap();
            assert_eq!(figure(&report, "Complete requests:"), 2000.0, "{words:?}");
            assert_eq!(figure(&report, "Failed requests:"), 0.0, "{words:?}: {report}");
            if kept > 0.0 {
                assert_eq!(figure(&report, "Keep-Alive requests:"), kept, "{words:?}");
            }
            assert_eq!(report.contains("Non-2xx responses:"), refused > 0.0, "{words:?}");
        }
    }

    #[ignore = "needs wrk"]
    fn wrk_has_no_errors(backend: Backend) {
        let site = Site::new();
        let (_server, url) = serve(backend, &site, "");
        for path in ["/letters", "/large.bin", "/dir/"] {
            let words = ["-t1", "-c64", "-d1s", "--timeout", "60s", &format!("{url}{path}")];
            let report = String::from_utf8(run("wrk", &words, Path::new("/")).stdout).unwrap();
            assert!(!report.contains("Socket errors") && !report.contains("Non-2xx"), "{path}: {report}");
            assert!(figure(&report, "Requests/sec:") > 0.0, "{report}");
        }
    }
}

/// Slowloris, a slow body, and a slow reader, three hundred of each, while another client goes on. Here the idle
/// timeout also limits requests, so the test takes less than a minute; a reader has the reactor's 30 seconds.
#[test]
#[ignore = "needs slowhttptest, and a minute"]
fn slow_clients_lose_and_nobody_else_notices() {
    let site = Site::new();
    // More than sockets have room for, and too large to be kept in memory.
    site.write("root/readable.bin", vec![b'x'; 8_000_000]);
    let (server, url) = serve(Backend::Epoll, &site, "--idle-timeout 3");
    let target = format!("{url}/readable.bin");
    let attacks: [&[&str]; 3] = [
        // Headers that never end; a body that never ends; an answer that is hardly read.
        &["-H", "-i", "1", "-x", "10", "-l", "20"],
        &["-B", "-i", "1", "-x", "10", "-s", "500000", "-l", "20"],
        &["-X", "-n", "1", "-w", "512", "-y", "1024", "-z", "16", "-k", "3", "-l", "60"],
    ];
    for attack in attacks {
        let scratch = Scratch::new();
        let words = [attack, &["-c", "300", "-r", "300", "-p", "30", "-u", &target]].concat();
        let mut child = Command::new("slowhttptest")
            .args(&words)
            .current_dir(scratch.path())
            .stdin(Stdio::null())
            .stdout(fs::File::create(scratch.join("report")).expect("a file"))
            .stderr(Stdio::null())
            .spawn()
            .expect("slowhttptest is installed");
        // Another client goes on until all slow clients are closed. Bytes that the kernel still has for a slow reader
        // do not keep a descriptor.
        let (mut client, mut asked, mut most) = (server.connect(), 0, 0);
        while child.try_wait().expect("it is ours").is_none() {
            client.send("GET /letters HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.response().body, LETTERS);
            asked += 1;
            let open = fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("it runs").count();
            most = most.max(open);
            if most > 250 && open < 40 && child.try_wait().expect("it is ours").is_none() {
                child.kill().expect("it runs");
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let killed = child.wait().expect("it is ours").code().is_none();
        let report = fs::read_to_string(scratch.join("report")).expect("a report");
        // If the report was cut by `kill`, its last line may be half a line.
        let report = plain(report.rsplit_once('\n').map_or("", |(whole, _)| whole));
        assert!(killed || report.contains("No open connections left"), "{words:?}: {report}");
        let answers: Vec<&str> = report.lines().filter(|line| line.starts_with("service available:")).collect();
        assert!(
            (killed || !answers.is_empty()) && answers.iter().all(|line| line.ends_with("YES")),
            "{words:?}: {report}"
        );
        assert!(asked > 0, "{words:?}");
    }
}

/// The text without colours.
fn plain(text: &str) -> String {
    let mut pieces = text.split('\x1b');
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |plain, piece| plain + piece.split_once('m').map_or("", |(_, rest)| rest))
}
