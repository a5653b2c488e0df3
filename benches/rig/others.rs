//! Servers that cargo does not build: the C loop, and nginx. Each is left out, with a word, where its program is missing.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::works;
use super::server::{Rig, Served, Server, free_port};

/// Compiles `peers/loop.c` into the rig's scratch directory. `None` without a C compiler.
pub fn c_loop(rig: &Rig) -> Result<Option<PathBuf>, String> {
    if !works(&[], &["cc", "--version"]) {
        return Ok(None);
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/loop.c");
    let program = rig.scratch.join("loop");
    let status = Command::new("cc").arg("-O2").arg("-o").arg(&program).arg(source).status();
    match status {
        Ok(status) if status.success() => Ok(Some(program)),
        other => Err(format!("the C loop does not compile: {other:?}")),
    }
}

pub fn has_nginx() -> bool {
    works(&[], &["nginx", "-v"])
}

/// One worker, with a cache of open files and without a log. `/` and `/fixed` answer `body`; other paths are below `root` of
/// the rig's scratch directory.
pub fn nginx(rig: &Rig, body: &str) -> Result<Server, String> {
    nginx_with(rig, body, "", "")
}

/// nginx that speaks TLS 1.3, with the files of a certificate and its key, and tickets but no cache of sessions.
pub fn nginx_tls(rig: &Rig, body: &str, certificate: &Path, key: &Path) -> Result<Server, String> {
    let (certificate, key) = (certificate.display(), key.display());
    let settings = format!(
        "ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.3; ssl_session_cache off;
            ssl_session_tickets on;"
    );
    nginx_with(rig, body, " ssl", &settings)
}

/// `listen`: further words of that setting. `settings`: further settings of the server.
fn nginx_with(rig: &Rig, body: &str, listen: &str, settings: &str) -> Result<Server, String> {
    let address = format!("127.0.0.1:{}", free_port()?);
    let directory = rig.scratch.display().to_string();
    let configuration = format!(
        "daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/nginx.log crit; user root;
        events {{ worker_connections 4096; }}
        http {{
          access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; keepalive_timeout 3600;
          open_file_cache max=1000 inactive=60s; open_file_cache_valid 60s; open_file_cache_min_uses 1;
          types {{ text/plain txt; }} default_type text/plain;
          server {{
            listen {address}{listen} backlog=4096; root {directory}/root; {settings}
            location = / {{ return 200 \"{body}\"; }}
            location = /fixed {{ return 200 \"{body}\"; }}
          }}
        }}"
    );
    let file = rig.scratch.join("nginx.conf");
    std::fs::write(&file, configuration).map_err(|why| format!("{}: {why}", file.display()))?;
    let file = file.display().to_string();
    let words = vec!["-c", &file, "-p", &directory, "-e", "/dev/null"];
    rig.serve_at(&Served { name: "nginx".to_owned(), program: Path::new("nginx"), words }, address)
}
