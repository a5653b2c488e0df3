//! Files in use: edited, replaced and cut short while they are served, larger than any buffer, requested by clients
//! that do not read, and served without free descriptors.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use reactor::{Backend, Runner, Service};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use services::http::{Files, Http, Resolver};

use super::site::{LARGE, Site};
use super::support::application::serve_by;
use super::support::client::Client;
use super::support::command::{Glowplug, Scratch, command, eventually, run, shell};
use super::support::on_every_backend;

/// The command that serves `root`, a path without blanks.
fn http(root: &Path, more: &str) -> String {
    format!("http --port 0 --log-level off --root {} {more}", root.display())
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn ask(client: &mut Client, path: &str) -> (u16, String) {
    client.send(get(path));
    let response = client.response();
    (response.status, response.body)
}

fn letters(length: usize) -> String {
    (0..length).map(|at| char::from(b'a' + (at % 26) as u8)).collect()
}

/// Number of open descriptors of a process.
fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count()
}

/// The names of a process's threads.
fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").map_while(Result::ok);
    // A thread that has ended meanwhile has no name.
    tasks.filter_map(|task| Some(fs::read_to_string(task.path().join("comm")).ok()?.trim().to_owned())).collect()
}

/// Resident memory of a process, in bytes.
fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has some");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// The cores that a thread may run on, as listed in its status.
fn cores(task: &Path) -> Option<String> {
    let status = fs::read_to_string(task.join("status")).ok()?;
    Some(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim().to_owned())
}

on_every_backend! {
    fn however_many_loops_serve_files_they_keep_each_once_and_share_their_helpers(backend: Backend) {
        const FILES: usize = 40;
        const LOOPS: usize = 4;
        let site = Site::new();
        for number in 0..FILES {
            site.write(&format!("root/large{number}.bin"), vec![b'x'; LARGE]);
        }
        let server = Glowplug::start(backend, &http(&site.root(), &format!("--listing --loops {LOOPS}")));
        let mut clients: Vec<Client> = (0..2 * LOOPS).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| assert_eq!(ask(client, "/letters.txt").0, 200));
        let before = descriptors(server.pid());
        for number in 0..FILES {
            for client in &mut clients {
                assert_eq!(ask(client, &format!("/large{number}.bin")).1.len(), LARGE);
            }
        }
        // A sent file is not closed at once.
        eventually("each is open once", || (descriptors(server.pid()) == before + FILES).then_some(()));
        // A helper makes every listing.
        clients.iter_mut().for_each(|client| client.send(get("/list/")));
        clients.iter_mut().for_each(|client| assert_eq!(client.response().status, 200));
        let helpers = threads(server.pid()).iter().filter(|name| *name == "files").count();
        assert!((1..=4).contains(&helpers), "{helpers} helpers");
    }

    fn who_waits_for_the_disk_does_not_stay_on_the_core_of_a_pinned_loop(backend: Backend) {
        let site = Site::new();
        // Files that are always served by helpers.
        let files = Files::resolved_by(Resolver::Walk, site.root(), false).unwrap();
        let make = move || Service::tcp("127.0.0.1:0", move || Http::with_files(files.clone(), None));
        let server = serve_by(backend, Runner::loops(2).unwrap().pinned(), make, |_| {});
        let address = server.service.address().expect("it listens");
        for mut client in [Client::connect(address), Client::connect(address)] {
            assert_eq!(ask(&mut client, "/letters").0, 200);
        }
        let all = cores(Path::new("/proc/thread-self"));
        let tasks = || fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
        let is_named = |task: &Path| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "files");
        let helpers = || tasks().filter(|task| is_named(task));
        assert!(helpers().count() > 0);
        // Some helpers may only be starting, and a helper of a neighbouring test may end meanwhile.
        eventually("helpers to have all cores", || {
            helpers().filter_map(|task| cores(&task)).all(|cores| Some(cores) == all).then_some(())
        });
    }

    fn an_edited_file_shows_at_once(backend: Backend) {
        let site = Site::new();
        let server = Glowplug::start(backend, &http(&site.root(), ""));
        let mut client = server.connect();
        let path = site.path("root/changing.txt");
        for number in 0..300 {
            // Overwritten, replaced, or replaced with equal length and time.
            match number % 3 {
                0 => fs::write(&path, format!("written {number}")).unwrap(),
                1 => {
                    fs::write(site.path("root/changing.new"), format!("replaced {number}")).unwrap();
                    fs::rename(site.path("root/changing.new"), &path).unwrap();
                }
                _ => site.write("root/changing.txt", format!("{number:05}")),
            }
            let expected = fs::read_to_string(&path).unwrap();
            assert_eq!(ask(&mut client, "/changing.txt"), (200, expected.clone()));
            assert_eq!(ask(&mut client, "/changing.txt"), (200, expected));
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(ask(&mut client, "/changing.txt").0, 404);
        fs::create_dir(&path).unwrap();
        assert_eq!(ask(&mut client, "/changing.txt").0, 301);
    }

    fn an_edited_file_shows_at_once_by_each_of_its_names(backend: Backend) {
        let site = Site::new();
        let server = Glowplug::start(backend, &http(&site.root(), ""));
        let mut client = server.connect();
        let long = format!("{}changing.txt", "/.".repeat(200) + "/");
        let names = ["/changing.txt", "/%63hanging.txt", "/dir/../changing.txt?a=/b", "http://here/changing.txt", &long];
        for number in 0..30 {
            let expected = format!("edition {number}");
            site.write("root/changing.txt", &expected);
            for at in 0..2 * names.len() {
                let name = names[(number + at) % names.len()];
                assert_eq!(ask(&mut client, name), (200, expected.clone()), "{name}");
            }
        }
        fs::remove_file(site.path("root/changing.txt")).unwrap();
        for name in names {
            assert_eq!(ask(&mut client, name).0, 404, "{name}");
        }
    }

    fn what_comes_and_goes_beside_a_file_shows_within_a_second(backend: Backend) {
        let site = Site::new();
        let server = Glowplug::start(backend, &http(&site.root(), ""));
        let mut client = server.connect();
        let mut encoding = || {
            client.send("GET /letters.txt HTTP/1.1\r\nHost: a\r\nAccept-Encoding: br, gzip\r\n\r\n");
            client.response().header("content-encoding").map(str::to_owned)
        };
        assert_eq!(encoding(), None);
        site.write("root/letters.txt.gz", "as gzip");
        eventually("the sibling", || (encoding().as_deref() == Some("gzip")).then_some(()));
        fs::remove_file(site.path("root/letters.txt.gz")).unwrap();
        assert_eq!(encoding(), None, "what is gone is gone at once");
    }

    fn a_large_file_arrives_as_it_is_however_slowly_it_is_read(backend: Backend) {
        let site = Site::new();
        let content: Vec<u8> = (0..20_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        site.write("root/huge.bin", &content);
        let server = Glowplug::start(backend, &http(&site.root(), ""));
        let (mut slow, mut quick) = (server.connect(), server.connect());
        slow.send(get("/huge.bin") + &get("/letters"));
        assert_eq!(slow.response_head().header("content-length"), Some("20000000"));
        for piece in content.chunks(1_000_000) {
            // Other clients are served in between.
            assert_eq!(ask(&mut quick, "/letters"), (200, letters(26)));
            assert!(slow.bytes(piece.len()) == piece);
        }
        assert_eq!(slow.response().body, letters(26));
        slow.send("GET /huge.bin HTTP/1.1\r\nHost: a\r\nRange: bytes=0-9,5000000-14999999,-10\r\n\r\n");
        let head = slow.response_head();
        let length = head.header("content-length").unwrap().parse().unwrap();
        let body = slow.bytes(length);
        let parts: [&[u8]; 3] = [&content[..10], &content[5_000_000..15_000_000], &content[19_999_990..]];
        let mut rest = &body[..];
        for part in parts {
            let head = rest.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
            assert!(rest[head..].starts_with(part));
            rest = &rest[head + part.len()..];
        }
        assert!(rest.starts_with(b"\r\n--") && rest.ends_with(b"--\r\n"), "{}", rest.escape_ascii());
    }

    fn a_file_cut_short_under_way_ends_its_connection_and_no_other(backend: Backend) {
        let site = Site::new();
        let length = 40_000_000;
        let file = fs::File::create(site.path("root/shrinking.bin")).unwrap();
        file.set_len(length).unwrap();
        let server = Glowplug::start(backend, &http(&site.root(), ""));
        let mut client = server.connect();
        client.send(get("/shrinking.bin") + &get("/letters"));
        assert_eq!(client.response_head().header("content-length"), Some("40000000"));
        client.bytes(1000);
        file.set_len(2000).unwrap();
        client.half_close();
        let rest = client.rest_however_it_ends();
        // Bytes beyond the sockets' room were not read yet: the answer ends early, and nothing takes the place of the
        // rest.
        assert!((rest.len() as u64) < length - 1000, "{} bytes", rest.len());
        assert!(rest.iter().all(|&byte| byte == 0));
        assert_eq!(ask(&mut server.connect(), "/letters"), (200, letters(26)));
        assert_eq!(ask(&mut server.connect(), "/shrinking.bin").1.len(), 2000);
    }

    fn what_comes_behind_a_last_request_does_not_cost_its_answer(backend: Backend) {
        let site = Site::new();
        let server = Glowplug::start(backend, &http(&site.root(), ""));
        let requests = ["GET /large.bin HTTP/1.0\r\n\r\n", "GET /large.bin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"];
        for request in requests {
            let mut client = server.connect();
            // More bytes than one receive takes. Bytes that are unread at the close would reset the connection.
            client.send([request.as_bytes(), &[b'x'; 200_000]].concat());
            let response = client.response();
            assert_eq!((response.status, response.body == letters(LARGE)), (200, true), "{request}");
        }
    }

    fn who_pipelines_megabytes_and_reads_nothing_costs_little(backend: Backend) {
        let site = Site::new();
        // Files too large to be kept in memory, so each answer holds a descriptor.
        for number in 0..20 {
            site.write(&format!("root/large-{number}.bin"), letters(LARGE));
        }
        let server = Glowplug::start(backend, &http(&site.root(), ""));
        assert_eq!(ask(&mut server.connect(), "/letters").0, 200);
        let (memory, open) = (resident_bytes(server.pid()), descriptors(server.pid()));
        let requests: String = (0..40_000).map(|number| get(&format!("/large-{}.bin", number % 20))).collect();
        let clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
        for client in &clients {
            let mut writer = client.writer();
            writer.set_nonblocking(true).unwrap();
            let mut rest = requests.as_bytes();
            // Sends as much as the server takes. Repeated refusals mean that the server has stopped reading.
            let mut refusals = 0;
            while !rest.is_empty() && refusals < 50 {
                match writer.write(rest) {
                    Ok(count) => (rest, refusals) = (&rest[count..], 0),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        refusals += 1;
                        thread::sleep(Duration::from_millis(1));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            writer.set_nonblocking(false).unwrap();
        }
        assert_eq!(ask(&mut server.connect(), "/letters"), (200, letters(26)));
        let (more_memory, more_open) =
            (resident_bytes(server.pid()).saturating_sub(memory), descriptors(server.pid()) - open);
        // Twenty connections, their queued requests and answers, and the kept files.
        assert!(more_memory < 40_000_000, "{more_memory} bytes for twenty of them");
        assert!(more_open <= 20 + 20 + 25, "{more_open} descriptors for twenty of them");
    }

    fn without_descriptors_those_connected_are_still_served(backend: Backend) {
        let site = Site::new();
        for number in 0..40 {
            site.write(&format!("root/large-{number}.bin"), letters(LARGE));
        }
        let words = http(&site.root(), "--max-connections 500");
        let mut server = Glowplug::spawn(shell(backend, "ulimit -n 64; exec \"$0\" \"$@\"", &words));
        server.listens();
        let mut early = server.connect();
        assert_eq!(ask(&mut early, "/letters"), (200, letters(26)));
        // More clients than descriptors. The last ones wait in the backlog.
        let mut crowd: Vec<Client> = (0..100).map(|_| server.connect()).collect();
        eventually("a crowd", || (descriptors(server.pid()) >= 40).then_some(()));
        for number in 0..40 {
            let path = format!("/large-{number}.bin");
            assert_eq!(ask(&mut early, &path), (200, letters(LARGE)), "{path}");
            assert_eq!(ask(&mut early, "/dir/inner.txt"), (200, "inner".to_owned()));
        }
        // Each client wants a large file of its own, and reads nothing.
        for (number, client) in crowd.iter_mut().enumerate() {
            client.send(get(&format!("/large-{}.bin", number % 40)).repeat(20));
        }
        for number in 0..40 {
            early.send(get(&format!("/large-{number}.bin")));
            let response = early.response();
            match response.status {
                200 => assert_eq!(response.body, letters(LARGE)),
                status => assert_eq!((status, response.header("retry-after")), (503, Some("1"))),
            }
            // A kept file is served even when its path cannot be resolved.
            assert_eq!(ask(&mut early, "/dir/inner.txt"), (200, "inner".to_owned()));
        }
        drop(crowd);
        // The server notices the end of each client in its own time, and accepts the waiting clients that have gone, too. Until
        // then a file may find no descriptor.
        eventually("room for another", || {
            let mut client = server.connect();
            client.send(get("/large-0.bin"));
            let response = client.response();
            if response.status != 200 {
                assert_eq!((response.status, response.header("retry-after")), (503, Some("1")));
                return None;
            }
            assert_eq!(response.body, letters(LARGE));
            Some(())
        });
    }

    fn with_no_descriptor_left_at_all_the_reserve_opens_files(backend: Backend) {
        let site = Site::new();
        let server = Glowplug::start(backend, &http(&site.root(), ""));
        let mut client = server.connect();
        assert_eq!(ask(&mut client, "/letters").0, 200);
        // From here on the server gets no new descriptor number.
        let names = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
        let numbers = names.map(|name| name.unwrap().file_name().to_str().unwrap().parse::<u64>().unwrap());
        let limit = Some(numbers.max().unwrap() + 1);
        let pid = Pid::from_raw(server.pid() as i32);
        prlimit(pid, Resource::Nofile, Rlimit { current: limit, maximum: limit }).expect("it is ours");
        assert_eq!(ask(&mut client, "/large.bin"), (200, letters(LARGE)));
        assert_eq!(ask(&mut client, "/dir/inner.txt"), (200, "inner".to_owned()));
        assert_eq!(ask(&mut client, "/nothing").0, 404);
    }

    fn one_address_has_no_more_connections_than_it_may(backend: Backend) {
        let site = Site::new();
        let server = Glowplug::start(backend, &http(&site.root(), "--max-connections-per-address 3"));
        let mut inside: Vec<Client> = (0..3).map(|_| server.connect()).collect();
        inside.iter_mut().for_each(|client| assert_eq!(ask(client, "/letters").0, 200));
        let mut refused = server.connect();
        let response = refused.response();
        assert_eq!((response.status, response.header("connection")), (503, Some("close")));
        drop(refused);
        // A flood is dropped without an answer, and admitted clients go on.
        let flood: Vec<Client> = (0..50).filter_map(|_| Client::try_connect(server.address()).ok()).collect();
        inside.iter_mut().for_each(|client| assert_eq!(ask(client, "/letters").0, 200));
        drop(flood);
        inside.pop();
        eventually("room for another", || {
            let mut client = server.connect();
            client.try_send(get("/letters")).ok()?;
            client.try_response(false).filter(|response| response.status == 200)
        });
    }

    fn each_answer_is_written_down_and_the_file_is_opened_anew(backend: Backend) {
        let (site, scratch) = (Site::new(), Scratch::new());
        let log = scratch.join("access.log");
        let words = format!("http --port 0 --root {} --access-log {}", site.root().display(), log.display());
        let mut server = Glowplug::start(backend, &words);
        let mut client = server.connect();
        client.send(
            "GET /letters?a=\"b\" HTTP/1.1\r\nHost: a\r\nReferer: http://b/\r\nUser-Agent: \"quoted\"\x1b\r\n\r\n"
                .replace('\x1b', "\u{fc}"),
        );
        assert_eq!(client.response().status, 200);
        client.send("GET /letters HTTP/1.1\r\nHost: a\r\nRange: bytes=0-4\r\n\r\nHEAD /nothing HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((client.response().status, client.response_head().status), (206, 404));
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi\r\nnonsense\r\n\r\n");
        assert_eq!((client.response().status, client.response().status), (405, 400));
        // A request that is refused for its body.
        let mut client = server.connect();
        client.send("HEAD /up HTTP/1.1\r\nHost: a\r\nUser-Agent: b\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n");
        assert_eq!(client.response_head().status, 400);
        let lines = |count: usize, path: &Path| {
            eventually("lines in the log", || {
                let text = fs::read_to_string(path).ok()?;
                // A line without its ending is being written.
                let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
                let lines: Vec<String> = whole.map(str::to_owned).collect();
                (lines.len() >= count).then_some(lines)
            })
        };
        let told = lines(6, &log);
        let ends: Vec<&str> = told.iter().map(|line| line.split_once("] ").unwrap().1).collect();
        assert_eq!(
            ends,
            [
                r#""GET /letters?a=\"b\" HTTP/1.1" 200 26 "http://b/" "\"quoted\"\xC3\xBC""#,
                r#""GET /letters HTTP/1.1" 206 5 "-" "-""#,
                r#""HEAD /nothing HTTP/1.1" 404 0 "-" "-""#,
                r#""POST / HTTP/1.1" 405 23 "-" "-""#,
                r#""nonsense" 400 16 "-" "-""#,
                r#""HEAD /up HTTP/1.1" 400 0 "-" "b""#,
            ]
        );
        assert!(told[0].starts_with("127.0.0.1 - - ["), "{}", told[0]);
        // Rotates the log as logrotate does.
        fs::rename(&log, scratch.join("access.log.1")).unwrap();
        server.signal(Signal::HUP);
        eventually("a new file", || {
            assert_eq!(ask(&mut server.connect(), "/letters").0, 200);
            log.exists().then_some(())
        });
        // Earlier answers may be logged in the old file.
        assert_eq!(ask(&mut server.connect(), "/letters").0, 200);
        assert!(lines(1, &log)[0].contains("\"GET /letters HTTP/1.1\" 200 26"));
        server.told("backend");
    }

    fn an_access_log_on_standard_output_follows_the_listening_line(backend: Backend) {
        let site = Site::new();
        let server = Glowplug::start(backend, &http(&site.root(), "--access-log -"));
        assert_eq!(ask(&mut server.connect(), "/letters").0, 200);
        let ended = server.stop();
        assert!(ended.stdout.contains("\"GET /letters HTTP/1.1\" 200 26 \"-\" \"-\"\n"), "{}", ended.stdout);
    }

    fn a_root_that_cannot_be_served_is_told_in_one_line(backend: Backend) {
        let site = Site::new();
        for root in ["nothing", "root/letters"] {
            let path = site.path(root);
            let ended = run(backend, &format!("http --port 0 --root {}", path.display()));
            assert_eq!(ended.code, Some(1), "{}", ended.stderr);
            let expected = format!("error: root {}: ", path.display());
            assert!(ended.stderr.starts_with(&expected) && ended.stderr.lines().count() == 1, "{}", ended.stderr);
        }
        for words in [
            "http --listing",
            "http --follow-links",
            "http --cache-control x",
            "http --root . --body x",
            "http --max-connections-per-address 0",
        ] {
            assert_eq!(run(backend, words).code, Some(2), "{words}");
        }
        for value in ["a\r\nSet-Cookie: b", "", " ", "\t"] {
            let mut bad = command(backend, "http --root . --cache-control");
            bad.arg(value);
            assert_eq!(Glowplug::spawn(bad).end().code, Some(2), "{value:?}");
        }
    }

    fn all_services_together_serve_files_too(backend: Backend) {
        let site = Site::new();
        let words = format!("serve --echo off --chat off --http 127.0.0.1:0 --root {} --listing", site.root().display());
        let server = Glowplug::start(backend, &words);
        assert_eq!(ask(&mut server.connect(), "/dir/inner.txt"), (200, "inner".to_owned()));
        let before = format!("--root {} --echo off --chat off --http 127.0.0.1:0", site.root().display());
        let server = Glowplug::start(backend, &before);
        assert_eq!(ask(&mut server.connect(), "/dir/inner.txt"), (200, "inner".to_owned()));
    }

    fn links_lead_out_where_that_is_asked_for(backend: Backend) {
        let site = Site::new();
        let server = Glowplug::start(backend, &http(&site.root(), "--follow-links"));
        let mut client = server.connect();
        for (path, content) in [("/outside.txt", "secret"), ("/outside/secret.txt", "secret"), ("/inside.txt", &letters(26))]
        {
            assert_eq!(ask(&mut client, path), (200, content.to_owned()), "{path}");
        }
        for path in ["/loop", "/dangling.txt", "/to-fifo", "/fifo", "/.hidden", "/../outside/secret.txt"] {
            assert_ne!(ask(&mut client, path).0, 200, "{path}");
        }
    }

    fn what_was_asked_before_a_stop_is_answered(backend: Backend) {
        let site = Site::new();
        site.write("root/huge.bin", letters(5_000_000));
        let server = Glowplug::start(backend, &http(&site.root(), ""));
        let mut client = server.connect();
        client.send(get("/huge.bin"));
        client.half_close();
        assert_eq!(client.response_head().status, 200);
        server.signal(Signal::TERM);
        assert!(client.bytes(5_000_000) == letters(5_000_000).as_bytes());
        assert_eq!(client.rest(), b"");
        assert_eq!(server.end().code, Some(0));
    }
}

/// A file without read permission, for a server that is not root: the answer is 403.
#[test]
fn a_file_that_is_not_for_us_is_forbidden() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::new();
    let path = site.path("root/letters");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&path).is_ok() {
        return eprintln!("not tried: root may read everything");
    }
    let server = Glowplug::start(Backend::Epoll, &http(&site.root(), ""));
    assert_eq!(ask(&mut server.connect(), "/letters").0, 403);
}

/// Another process writes to the file all the time; each answer is one state of the file, never a mixture of two.
#[test]
fn an_answer_is_one_state_of_a_file_that_is_written_to() {
    let site = Site::new();
    let length = 60_000;
    let path = site.path("root/flickering.bin");
    fs::write(&path, vec![b'a'; length]).unwrap();
    let server = Glowplug::start(Backend::Epoll, &http(&site.root(), ""));
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let new = site.path("root/flickering.new");
    let writer = thread::spawn(move || {
        for number in 0u32.. {
            if stopped.try_recv().is_ok() {
                return;
            }
            // Replaced as a whole, as editors and deployments do.
            fs::write(&new, vec![b'a' + (number % 26) as u8; length]).unwrap();
            fs::rename(&new, &path).unwrap();
        }
    });
    let mut client = server.connect();
    let mut states = std::collections::BTreeSet::new();
    for _ in 0..500 {
        let (status, body) = ask(&mut client, "/flickering.bin");
        assert_eq!((status, body.len()), (200, length));
        assert!(body.bytes().all(|byte| byte == body.as_bytes()[0]), "two states in one answer");
        states.insert(body.as_bytes()[0]);
    }
    stop.send(()).unwrap();
    writer.join().unwrap();
    assert!(states.len() > 3, "{states:?}");
}

/// A sparse file that is larger than memory is served by ranges.
#[test]
fn a_file_larger_than_memory_has_its_ranges() {
    let site = Site::new();
    let file = fs::File::create(site.path("root/sparse.bin")).unwrap();
    let size: u64 = 1 << 40;
    if file.set_len(size).is_err() {
        return eprintln!("not tried: no such large files here");
    }
    file.write_all_at(b"the end", size - 7).unwrap();
    let server = Glowplug::start(Backend::Epoll, &http(&site.root(), ""));
    let mut client = server.connect();
    client.send("GET /sparse.bin HTTP/1.1\r\nHost: a\r\nRange: bytes=-7\r\n\r\n");
    let response = client.response();
    assert_eq!(response.body, "the end");
    assert_eq!(response.header("content-range"), Some("bytes 1099511627769-1099511627775/1099511627776"));
    client.send("HEAD /sparse.bin HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response_head().header("content-length"), Some("1099511627776"));
    let mut rest = [0; 1];
    client.half_close();
    assert_eq!(client.writer().read(&mut rest).unwrap(), 0);
}
