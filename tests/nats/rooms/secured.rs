//! TLS and logins, with a certificate of the tests' own authority.

use super::*;
use crate::encrypted::file;
use crate::support::on_every_backend;

/// A `nats-server` with JetStream that requires TLS, and has a certificate for `localhost`.
fn secured(scratch: &Scratch, login: &[&str]) -> Engine {
    let (certificate, key) = (file("signed.pem"), file("signed.key"));
    let (certificate, key) = (certificate.to_str().expect("it is text"), key.to_str().expect("it is text"));
    let tls = ["-js", "--tls", "--tlscert", certificate, "--tlskey", key];
    Engine::start(scratch.path(), &[&tls[..], login].concat())
}

fn authority() -> String {
    format!("--nats-ca {}", file("authority.pem").display())
}

on_every_backend! {
    #[ignore = "needs nats-server"]
    fn servers_meet_over_tls_with_a_login_from_the_url_a_file_or_the_variable(backend: Backend) {
        let scratch = Scratch::new();
        for (login, secret) in [(["--user", "ann", "--pass", "s3cret"].as_slice(), "ann:s3cret"), (&["--auth", "t0ken"], "t0ken")] {
            let engine = secured(&scratch, login);
            let credentials = scratch.path().join("login");
            std::fs::write(&credentials, format!("{secret}\n")).unwrap();
            let by_url = serve(backend, &format!("{} --nats {}", authority(), engine.tls_url(&format!("{secret}@"))));
            let words = format!("{} --nats {} --nats-credentials {}", authority(), engine.tls_url(""), credentials.display());
            let by_file = serve(backend, &words);
            // The variable of OpenSSL names the authority in place of the option.
            let mut variables = command(backend, &format!("chat serve --port 0 --log-level off --nats {}", engine.tls_url("")));
            variables.env("NATS_CREDENTIALS", secret).env("SSL_CERT_FILE", file("authority.pem"));
            let mut by_variable = Glowplug::spawn(variables);
            by_variable.listens();
            let mut ann = Member::join(&by_url, "ann");
            let mut ben = Member::join(&by_file, "ben");
            let mut cat = Member::join(&by_variable, "cat");
            for member in [&mut ann, &mut ben, &mut cat] {
                member.finds(&["ann", "ben", "cat"]);
            }
            ann.say("hi");
            for member in [&mut ben, &mut cat] {
                member.reads_up_to("#ann@127.0.0.1>>hi");
            }
        }
    }

    #[ignore = "needs nats-server"]
    fn without_a_good_certificate_name_or_login_the_command_ends_with_an_error_that_says_why(backend: Backend) {
        let scratch = Scratch::new();
        let engine = secured(&scratch, &["--user", "ann", "--pass", "s3cret"]);
        let plain = Engine::start(scratch.path(), &["-js"]);
        let error = |words: &str| error_of(|| command(backend, &format!("chat serve --port 0 {words}")));
        for (url, option, parts) in [
            // Signed by nobody whom the system knows, and by another authority.
            (engine.tls_url("ann:s3cret@"), String::new(), ["TLS: ", "certificate"]),
            (engine.tls_url("ann:s3cret@"), format!("--nats-ca {}", file("other.pem").display()), ["TLS: ", "certificate"]),
            // The certificate is for localhost.
            (format!("tls://ann:s3cret@127.0.0.1:{}", engine.port), authority(), ["TLS: ", "127.0.0.1"]),
            (engine.url("ann:s3cret@"), authority(), ["requires TLS", "tls://"]),
            (plain.tls_url(""), authority(), ["TLS: ", "the server has no TLS"]),
            (engine.tls_url("ann:wr0ng@"), authority(), ["the server says: ", "Authorization Violation"]),
        ] {
            let error = error(&format!("--nats {url} {option}"));
            assert!(error.starts_with("error: NATS at ") && parts.iter().all(|part| error.contains(part)), "{error}");
            assert!(!error.contains("s3cret") && !error.contains("wr0ng"), "{error}");
        }
    }
}

on_every_backend! {
    fn a_file_that_has_no_certificates_is_an_error_that_names_the_file(backend: Backend) {
        let error = |path: &str| error_of(|| command(backend, &format!("chat serve --port 0 --nats tls://x --nats-ca {path}")));
        for path in ["/nowhere/ca.pem", file("localhost.key").to_str().expect("it is text")] {
            let error = error(path);
            assert!(error.contains(path), "{error}");
        }
    }
}
