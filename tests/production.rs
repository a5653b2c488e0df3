//! The examples of `docs/production.md`, run as printed except for ports and paths; and the README's code.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use support::command::{Glowplug, Scratch, eventually};
use support::{GUARD, on_every_backend};

const PAGE: &str = include_str!("../docs/production.md");

/// The only block of `language`.
fn block(language: &str) -> &'static str {
    let opening = format!("```{language}\n");
    let (_, rest) = PAGE.split_once(&opening).expect("the page has one");
    assert!(!rest.contains(&opening), "the page has one block of {language}");
    rest.split_once("```").expect("it is closed").0
}

/// The blocks of Rust of a page.
fn rust_of(page: &str) -> Vec<&str> {
    page.split("```rust").skip(1).map(|block| block.split_once("```").expect("it is closed").0).collect()
}

#[test]
fn the_code_of_the_readme_stands_in_the_packages_readme_which_is_compiled() {
    let mut packages = rust_of(include_str!("../reactor/README.md"));
    packages.extend(rust_of(include_str!("../sequential/README.md")));
    let whole = rust_of(include_str!("../README.md"));
    assert!(!whole.is_empty());
    for block in whole {
        assert!(packages.contains(&block), "the README of no package has{block}");
    }
}

/// An nginx of this test alone, ended when it is dropped.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        // Fails if nginx has ended, which does not matter here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends one request and returns the whole answer.
fn get(at: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(GUARD))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

on_every_backend! {
    #[ignore = "needs nginx"]
    fn nginx_passes_requests_on_as_the_page_configures_it(backend: Backend) {
        let scratch = Scratch::new();
        let server = Glowplug::start(backend, "http --port 0 --log-level off");
        // Was free a moment ago: nginx does not report the port that it got.
        // No client of a neighbouring test has an address of this host.
        let free = TcpListener::bind("127.0.0.83:0").and_then(|listener| listener.local_addr()).expect("a port is free");
        let (upstream, listen) = ("server 127.0.0.1:8802;", "listen 8080;");
        let configuration = block("nginx");
        assert!(configuration.contains(upstream) && configuration.contains(listen), "{configuration}");
        let configuration = configuration
            .replace(upstream, &format!("server {};", server.tcp()))
            .replace(listen, &format!("listen {free};"));
        let directory = scratch.path().display().to_string();
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|module| format!("{module}_temp_path {directory}/{module};\n"))
            .collect();
        let file = scratch.path().join("nginx.conf");
        let all = format!(
            "daemon off; master_process off; pid {directory}/pid; error_log stderr;\nevents {{}}\n\
             http {{ access_log off;\n{paths}{configuration}}}\n"
        );
        fs::write(&file, all).expect("the directory is ours");
        let mut command = Command::new("nginx");
        let command = command.arg("-c").arg(&file).stdin(Stdio::null()).stderr(Stdio::null());
        let _nginx = Nginx(command.spawn().expect("nginx is installed"));
        let first = eventually("nginx", || get(free).ok());
        for answer in [first, get(free).expect("it listens"), get(free).expect("it listens")] {
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
            assert!(answer.ends_with("Hello from Epoll Server!"), "{answer}");
        }
        let ended = server.stop();
        assert_eq!(ended.code, Some(0));
    }
}
