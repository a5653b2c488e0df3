//! The chat room with the WebSocket clients that people use: the page in headless Chromium, with TLS and without,
//! npm's `ws`, PyPI's `websockets`.

#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use reactor::Backend;
use support::command::{Glowplug, Scratch};
use support::on_every_backend;
use support::programs::{command, install_for_node, install_for_python, run};

const CHAT: &str = "chat serve --port 0 --log-level off";

/// Runs a client beside a member that speaks lines. Client and member check the texts that they receive.
fn talk_with(chat: &Glowplug, program: &str, script: &str, scratch: &Scratch) {
    let mut line = chat.connect();
    assert_eq!(line.ask("line"), "CLIENT: 127.0.0.1");
    let child =
        command(program, &[script, &format!("ws://{}/ws", chat.tcp())], scratch.path()).stdout(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert_eq!(line.line(), "(Connected: New client (2) from client@127.0.0.1)");
    line.send("Grüße\n");
    assert_eq!(line.line(), "#client@127.0.0.1>>Grüße zurück");
    assert_eq!(line.line(), format!("#client@127.0.0.1>>{}", "x".repeat(65_536)));
    assert_eq!(line.line(), "(Now hung up: Client from client@127.0.0.1)");
    let mut told = String::new();
    BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut told).expect("UTF-8");
    assert_eq!(told, "closed 1000\n");
    assert!(child.wait().expect("it was started").success());
}

on_every_backend! {
    #[ignore = "needs npm and node"]
    fn npms_ws_is_a_member(backend: Backend) {
        let scratch = Scratch::new();
        install_for_node(&["ws@8.18.3"], scratch.path());
        fs::write(scratch.join("client.js"), include_str!("client.js")).unwrap();
        talk_with(&Glowplug::start(backend, CHAT), "node", "client.js", &scratch);
    }

    #[ignore = "needs python3 with pip"]
    fn pypis_websockets_is_a_member(backend: Backend) {
        let scratch = Scratch::new();
        install_for_python(&["websockets==15.0.1"], scratch.path());
        fs::write(scratch.join("client.py"), include_str!("client.py")).unwrap();
        talk_with(&Glowplug::start(backend, CHAT), "python3", "client.py", &scratch);
    }
}

/// The script reports on its standard output when the server must stop and start again.
#[test]
#[ignore = "needs chromium, npm and node"]
fn the_page_works_in_a_browser_beside_a_line_client() {
    let scratch = Scratch::new();
    install_for_node(&["playwright-core@1.55.0", "axe-core@4.10.3"], scratch.path());
    let chromium = run("sh", &["-c", "command -v chromium"], scratch.path());
    fs::write(scratch.join("browser.js"), include_str!("browser.js")).unwrap();
    let mut chat = Some(Glowplug::start(Backend::Epoll, CHAT));
    let port = chat.as_ref().expect("it runs").tcp().port();
    let mut browser = command("node", &["browser.js", &port.to_string(), chromium.trim()], scratch.path());
    let browser = browser.env("HOME", scratch.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut browser = browser.expect("node is installed");
    let mut orders = browser.stdin.take().expect("it is piped");
    let mut told = String::new();
    for line in BufReader::new(browser.stdout.take().expect("it is piped")).lines() {
        match line.expect("UTF-8").as_str() {
            "stop" => {
                chat.take().expect("it runs").stop();
                writeln!(orders, "stopped").expect("it reads");
            }
            "start" => {
                let words = CHAT.replace("--port 0", &format!("--port {port}"));
                chat = Some(Glowplug::start(Backend::Epoll, &words));
                writeln!(orders, "started").expect("it reads");
            }
            other => told = format!("{told}{other}\n"),
        }
    }
    assert!(browser.wait().expect("it was started").success(), "{told}");
    assert!(told.ends_with("the end\n"), "{told}");
}

#[test]
#[ignore = "needs chromium, npm and node"]
fn the_page_works_over_tls_beside_a_line_client() {
    let scratch = Scratch::new();
    install_for_node(&["playwright-core@1.55.0"], scratch.path());
    let chromium = run("sh", &["-c", "command -v chromium"], scratch.path());
    fs::write(scratch.join("over_tls.js"), include_str!("over_tls.js")).unwrap();
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls_files");
    let (certificate, key) = (files.join("localhost.pem"), files.join("localhost.key"));
    let words = format!("{CHAT} --tls-cert {} --tls-key {}", certificate.display(), key.display());
    let mut chat = Glowplug::spawn(support::command::command(Backend::Epoll, &words));
    let listening = chat.line().expect("it listens");
    let (_, port) = listening.trim().rsplit_once(':').expect("a port");
    let mut browser = command("node", &["over_tls.js", port, chromium.trim()], scratch.path());
    let output = browser.env("HOME", scratch.path()).output().expect("node is installed");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.ends_with("the end\n"), "{told}");
    assert_eq!(chat.stop().code, Some(0));
}
