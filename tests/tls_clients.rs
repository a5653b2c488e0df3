//! TLS with the clients that people use. They have to be installed; `.ci/run` does that.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use reactor::Backend;
use support::command::{Glowplug, Scratch, command};
use support::on_every_backend;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls_files").join(name)
}

/// A server with the certificate of `localhost`, and where it listens.
fn start(backend: Backend, words: &str) -> (Glowplug, SocketAddr) {
    let pair = format!("--tls-cert {} --tls-key {}", file("localhost.pem").display(), file("localhost.key").display());
    let mut server = Glowplug::spawn(command(backend, &format!("{words} {pair}")));
    let line = server.line().expect("it listens");
    let (_, address) = line.trim().split_once("tls://").unwrap_or_else(|| panic!("no TLS: {line}"));
    let address = address.parse().unwrap();
    (server, address)
}

/// Runs a program to its end. Its standard output; fails if it does.
fn program(name: &str, words: &[&str], directory: &Path) -> Vec<u8> {
    let mut run = Command::new(name);
    run.args(words).current_dir(directory).stdin(Stdio::null()).env("PYTHONPATH", directory);
    let output = run.output().unwrap_or_else(|error| panic!("{name}: {error}"));
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} {words:?}: {said}\n{complained}");
    output.stdout
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// Tries a client that leaves the server some seconds for its answers, until they contain what is expected: on a slow machine one
/// second is not enough.
fn in_time(expected: [&str; 2], answers: impl Fn(u32) -> String) {
    let mut told = String::new();
    for pause in [1, 4, 16, 30] {
        told = answers(pause);
        if expected.iter().all(|part| told.contains(part)) {
            return;
        }
    }
    panic!("{expected:?}: {told}");
}

/// A directory with a large file.
fn site() -> (Scratch, Vec<u8>) {
    let (scratch, bytes) = (Scratch::new(), (0..3_000_000).map(|at: usize| (at * 31 + at / 251) as u8).collect());
    fs::write(scratch.join("large"), &bytes).unwrap();
    (scratch, bytes)
}

const PYTHON: &str = r#"
import socket, ssl, sys
host, port, ca, large = "localhost", int(sys.argv[1]), sys.argv[2], open(sys.argv[3], "rb").read()
for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = context.maximum_version = version
    session = None
    for time in range(3):
        with context.wrap_socket(socket.create_connection((host, port)), server_hostname=host, session=session) as tls:
            tls.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while b"\r\n\r\n" not in answer or len(answer) < answer.index(b"\r\n\r\n") + 4 + len(large):
                part = tls.recv(65536)
                assert part, "it ended after %d bytes" % len(answer)
                answer += part
            assert answer.endswith(large)
            assert tls.session_reused == (time > 0), (version, time)
            session = tls.session
            tls.unwrap()
print("good")
"#;

const NODE: &str = r#"
const https = require("https"), fs = require("fs"), crypto = require("crypto");
const [port, ca, large] = process.argv.slice(2);
const agent = new https.Agent({ keepAlive: true, maxSockets: 4, ca: fs.readFileSync(ca) });
const expected = fs.readFileSync(large);
let left = 20;
for (let n = 0; n < 20; n++) {
  https.get({ host: "localhost", port, path: "/large", agent }, (answer) => {
    const parts = [];
    answer.on("data", (part) => parts.push(part));
    answer.on("end", () => {
      if (answer.statusCode !== 200 || !Buffer.concat(parts).equals(expected)) throw new Error("not the file");
      if (--left === 0) { console.log("good"); agent.destroy(); }
    });
  });
}
"#;

const SSLYZE: &str = r#"
import sys
from sslyze import Scanner, ServerScanRequest, ServerNetworkLocation, ScanCommand, ServerScanStatusEnum
commands = {
    ScanCommand.SSL_2_0_CIPHER_SUITES, ScanCommand.SSL_3_0_CIPHER_SUITES, ScanCommand.TLS_1_0_CIPHER_SUITES,
    ScanCommand.TLS_1_1_CIPHER_SUITES, ScanCommand.TLS_1_2_CIPHER_SUITES, ScanCommand.TLS_1_3_CIPHER_SUITES,
    ScanCommand.HEARTBLEED, ScanCommand.ROBOT, ScanCommand.TLS_COMPRESSION, ScanCommand.TLS_1_3_EARLY_DATA,
    ScanCommand.SESSION_RENEGOTIATION, ScanCommand.OPENSSL_CCS_INJECTION, ScanCommand.TLS_FALLBACK_SCSV,
}
location = ServerNetworkLocation("localhost", port=int(sys.argv[1]), ip_address="127.0.0.1")
scanner = Scanner()
scanner.queue_scans([ServerScanRequest(server_location=location, scan_commands=commands)])
for result in scanner.get_results():
    assert result.scan_status == ServerScanStatusEnum.COMPLETED, result.connectivity_error_trace
    scan = result.scan_result
    accepted = lambda attempt: len(attempt.result.accepted_cipher_suites)
    for old in (scan.ssl_2_0_cipher_suites, scan.ssl_3_0_cipher_suites, scan.tls_1_0_cipher_suites, scan.tls_1_1_cipher_suites):
        assert accepted(old) == 0, old
    assert accepted(scan.tls_1_2_cipher_suites) > 0 and accepted(scan.tls_1_3_cipher_suites) > 0
    assert not scan.heartbleed.result.is_vulnerable_to_heartbleed
    assert not scan.openssl_ccs_injection.result.is_vulnerable_to_ccs_injection
    assert "NOT_VULNERABLE" in scan.robot.result.robot_result.name, scan.robot.result
    assert not scan.tls_compression.result.supports_compression
    assert not scan.tls_1_3_early_data.result.supports_early_data
    assert not scan.session_renegotiation.result.is_vulnerable_to_client_renegotiation_dos
print("good")
"#;

struct Browser(Child);

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

on_every_backend! {
    #[ignore = "needs curl"]
    fn curl_gets_files_in_all_its_ways(backend: Backend) {
        let (scratch, bytes) = site();
        let (_server, address) = start(backend, &format!("http --port 0 --root {}", scratch.path().display()));
        let (ca, url) = (file("localhost.pem"), format!("https://localhost:{}/large", address.port()));
        let ca = ca.to_str().unwrap();
        for more in [&["--tlsv1.3"][..], &["--tls-max", "1.2"], &["--http1.0"]] {
            let words = [&["-sS", "--max-time", "120", "--cacert", ca][..], more, &[&url]].concat();
            assert!(program("curl", &words, scratch.path()) == bytes, "{more:?}");
        }
        let words = ["-sS", "--max-time", "120", "--cacert", ca, "-r", "1000-1099", "--parallel", &url, &url, &url];
        assert_eq!(program("curl", &words, scratch.path()), bytes[1000..1100].repeat(3));
    }

    #[ignore = "needs wget"]
    fn wget_takes_up_a_download(backend: Backend) {
        let (scratch, bytes) = site();
        let (_server, address) = start(backend, &format!("http --port 0 --root {}", scratch.path().display()));
        let (ca, url) = (file("localhost.pem"), format!("https://localhost:{}/large", address.port()));
        let ca = format!("--ca-certificate={}", ca.display());
        fs::write(scratch.join("got"), &bytes[..1_000_000]).unwrap();
        program("wget", &["-q", "-c", "-T", "120", "-O", "got", &ca, &url], scratch.path());
        assert!(fs::read(scratch.join("got")).unwrap() == bytes);
    }

    #[ignore = "needs openssl"]
    fn openssl_resumes_updates_keys_and_half_closes(backend: Backend) {
        let (server, address) = start(backend, "echo --port 0");
        let (scratch, ca) = (Scratch::new(), file("localhost.pem"));
        let script = |commands: &str, options: &str, expected: [&str; 2]| {
            in_time(expected, |pause| {
                let commands = commands.replace("PAUSE", &format!("sleep {pause}"));
                let line = format!(
                    "({commands}) | timeout 120 openssl s_client -CAfile {} -connect {address} {options} 2>&1",
                    ca.display()
                );
                text(program("sh", &["-c", &line], scratch.path()))
            });
        };
        for version in ["-tls1_3", "-tls1_2"] {
            let (out, of_before) = (format!("{version} -sess_out session"), format!("{version} -sess_in session"));
            script("echo hello; PAUSE; echo Q", &out, ["Verification: OK", "You said: hello"]);
            script("echo hello; PAUSE; echo Q", &of_before, ["Reused, TLS", "You said: hello"]);
        }
        // `K` asks for a key update that the peer has to answer.
        let commands = "echo one; PAUSE; echo K; PAUSE; echo two; PAUSE; echo Q";
        script(commands, "-tls1_3", ["KEYUPDATE", "You said: two"]);
        assert_eq!(server.stop().code, Some(0));
    }

    #[ignore = "needs curl and openssl"]
    fn every_model_serves_files_resumes_and_takes_no_early_data(backend: Backend) {
        let (scratch, bytes) = site();
        let request = "GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        fs::write(scratch.join("request"), request).unwrap();
        let ca = file("localhost.pem");
        for model in ["--loops 3", "--model threads", "--model processes"] {
            let words = format!("http --port 0 --root {} {model}", scratch.path().display());
            let (server, address) = start(backend, &words);
            let url = format!("https://localhost:{}/large", address.port());
            let got = program("curl", &["-sS", "--cacert", ca.to_str().unwrap(), &url, "-m", "120"], scratch.path());
            assert!(got == bytes, "{model}: {} bytes", got.len());
            let script = |pause: u32, options: &str| {
                let line = format!(
                    "(cat request; sleep {pause}) | timeout 120 openssl s_client -CAfile {} -connect {address} -tls1_3 {options} 2>&1 | \
                     LC_ALL=C grep -a -i -E 'early data|reused|verification:' || true",
                    ca.display()
                );
                text(program("sh", &["-c", &line], scratch.path()))
            };
            in_time(["Reused, TLSv1.3", "Early data was not sent"], |pause| {
                assert!(script(pause, "-sess_out session").contains("Verification: OK"), "{model}");
                script(pause, "-sess_in session -early_data request")
            });
            assert_eq!(server.stop().code, Some(0), "{model}");
        }
    }

    #[ignore = "needs python3"]
    fn pythons_ssl_resumes_and_ends_as_agreed(backend: Backend) {
        let (scratch, _) = site();
        let (_server, address) = start(backend, &format!("http --port 0 --root {}", scratch.path().display()));
        let (ca, port) = (file("localhost.pem"), address.port().to_string());
        let told = program("python3", &["-c", PYTHON, &port, ca.to_str().unwrap(), "large"], scratch.path());
        assert_eq!(text(told), "good\n");
    }

    #[ignore = "needs node"]
    fn node_keeps_its_connections(backend: Backend) {
        let (scratch, _) = site();
        fs::write(scratch.join("client.js"), NODE).unwrap();
        let (_server, address) = start(backend, &format!("http --port 0 --root {}", scratch.path().display()));
        let (ca, port) = (file("localhost.pem"), address.port().to_string());
        let told = program("node", &["client.js", &port, ca.to_str().unwrap(), "large"], scratch.path());
        assert_eq!(text(told), "good\n");
    }

    #[ignore = "needs python3 with pip, and packages of PyPI"]
    fn sslyze_finds_nothing(backend: Backend) {
        let scratch = Scratch::new();
        program("python3", &["-m", "pip", "install", "-q", "--target", ".", "sslyze"], scratch.path());
        let (_server, address) = start(backend, "http --port 0");
        let told = program("python3", &["-c", SSLYZE, &address.port().to_string()], scratch.path());
        assert_eq!(text(told), "good\n");
    }

    #[ignore = "needs chromium"]
    fn a_browser_is_in_the_room_over_wss(backend: Backend) {
        let scratch = Scratch::new();
        let (server, address) = start(backend, "chat serve --port 0 --origin *");
        let words = format!("chat join --name ann --host localhost --port {} --tls", address.port());
        let mut ann = command(backend, &format!("{words} --ca {}", file("localhost.pem").display()));
        ann.stdin(Stdio::piped());
        let mut ann = Glowplug::spawn(ann);
        ann.told("Now connected");
        let page = format!(
            "<script>const ws = new WebSocket('wss://localhost:{}/ws');
            ws.onopen = () => {{ ws.send('NAME: eve'); ws.send('hello from the browser'); }};</script>",
            address.port()
        );
        fs::write(scratch.join("index.html"), page).unwrap();
        let (_pages, pages) = start(backend, &format!("http --port 0 --root {}", scratch.path().display()));
        let browser = Command::new("chromium")
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--ignore-certificate-errors", "--disable-background-networking"])
            .arg(format!("--user-data-dir={}", scratch.join("profile").display()))
            .arg(format!("https://localhost:{}/", pages.port()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let browser = Browser(browser.expect("chromium is installed"));
        let mut heard = String::new();
        while !heard.contains("#eve@127.0.0.1>>hello from the browser") {
            heard.push_str(&ann.line().unwrap_or_else(|| panic!("the room has ended: {heard}")));
        }
        drop((browser, ann.stdin()));
        assert_eq!(ann.end().code, Some(0));
        assert_eq!(server.stop().code, Some(0));
    }
}
