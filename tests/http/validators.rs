//! Tags and dates: a client's cached copy never passes for the current file.

use std::fs::{self, File, FileTimes};
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::support::client::{Client, Response};
use super::support::command::{Glowplug, Scratch, eventually};
use super::support::on_every_backend;

/// Size of a file that is too large to be kept in memory.
const LARGE: usize = 300_000;

const DAY: u64 = 86_400;

fn set_time(path: &Path, time: SystemTime) {
    File::options().write(true).open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
}

/// Replaces a file, and gives the new file a time that the old file may have too.
fn replace(path: &Path, content: &[u8], time: SystemTime) {
    let new = path.with_extension("new");
    fs::write(&new, content).unwrap();
    set_time(&new, time);
    fs::rename(new, path).unwrap();
}

fn ask(client: &mut Client, path: &str, fields: &str) -> Response {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    client.response()
}

fn tag(client: &mut Client, path: &str) -> String {
    ask(client, path, "").header("etag").expect("each has one").to_owned()
}

fn serve(backend: reactor::Backend, root: &Path, more: &str) -> Glowplug {
    Glowplug::start(backend, &format!("http --port 0 --log-level off --root {} {more}", root.display()))
}

/// Waits for a strong tag. Only time makes a tag of the status strong.
fn strong_tag(client: &mut Client, path: &str) -> String {
    eventually("a strong tag", || Some(tag(client, path)).filter(|tag| !tag.starts_with("W/")))
}

on_every_backend! {
    fn no_two_files_of_one_size_and_time_have_one_strong_tag(backend: Backend) {
        let scratch = Scratch::new();
        let epoch = UNIX_EPOCH + Duration::from_secs(20 * 365 * DAY);
        for more in ["", "--model threads"] {
            for size in [26, LARGE] {
                let path = scratch.join("file.bin");
                replace(&path, &vec![b'a'; size], epoch);
                let server = serve(backend, scratch.path(), more);
                let mut client = server.connect();
                let first = strong_tag(&mut client, "/file.bin");
                // As `cp -p`, `rsync -t` and `tar` do.
                replace(&path, &vec![b'b'; size], epoch);
                let second = tag(&mut client, "/file.bin");
                assert_ne!(second.trim_start_matches("W/"), first, "{size} {more}");
                let resumed = ask(&mut client, "/file.bin", &format!("If-Range: {first}\r\nRange: bytes=10-\r\n"));
                assert_eq!((resumed.status, resumed.body.len()), (200, size));
                assert_eq!(ask(&mut client, "/file.bin", &format!("If-None-Match: {first}\r\n")).status, 200);
                assert_eq!(ask(&mut client, "/file.bin", &format!("If-Match: {first}\r\n")).status, 412);
                let kept = strong_tag(&mut client, "/file.bin");
                assert_eq!(kept, second.trim_start_matches("W/"), "it only becomes strong");
                let part = ask(&mut client, "/file.bin", &format!("If-Range: {kept}\r\nRange: bytes=10-\r\n"));
                assert_eq!((part.status, part.body.len()), (206, size - 10));
            }
        }
    }

    fn a_tag_of_a_status_is_weak_while_it_is_young_and_matches_only_weakly(backend: Backend) {
        let scratch = Scratch::new();
        let server = serve(backend, scratch.path(), "");
        let mut client = server.connect();
        // A busy machine may take two seconds for one attempt, so another attempt follows.
        eventually("a weak tag", || {
            fs::write(scratch.join("young.bin"), vec![b'a'; LARGE]).unwrap();
            let weak = tag(&mut client, "/young.bin");
            let if_range = ask(&mut client, "/young.bin", &format!("If-Range: {weak}\r\nRange: bytes=0-1\r\n")).status;
            let if_match = ask(&mut client, "/young.bin", &format!("If-Match: {weak}\r\n")).status;
            let if_none_match = ask(&mut client, "/young.bin", &format!("If-None-Match: {weak}\r\n"));
            let still_weak = if_none_match.header("etag") == Some(&weak) && weak.starts_with("W/");
            still_weak.then(|| assert_eq!((if_range, if_match, if_none_match.status), (200, 412, 304)))
        });
        let strong = strong_tag(&mut client, "/young.bin");
        let strongly = |field: &str, opaque: &str| format!("{field}: {opaque}\r\nRange: bytes=0-1\r\n");
        assert_eq!(ask(&mut client, "/young.bin", &strongly("If-Range", &strong)).status, 206);
        assert_eq!(ask(&mut client, "/young.bin", &strongly("If-Range", &format!("W/{strong}"))).status, 200);
        assert_eq!(ask(&mut client, "/young.bin", &strongly("If-Match", &strong)).status, 206);
    }

    fn a_small_file_has_one_tag_on_all_machines_and_its_siblings_have_their_own(backend: Backend) {
        let (one, other) = (Scratch::new(), Scratch::new());
        let mut tags = Vec::new();
        for (scratch, age) in [(&one, 10 * DAY), (&other, 20 * DAY)] {
            let time = SystemTime::now() - Duration::from_secs(age);
            for (name, content) in [("page.html", "content"), ("page.html.gz", "content")] {
                replace(&scratch.join(name), content.as_bytes(), time);
            }
            let server = serve(backend, scratch.path(), "");
            let mut client = server.connect();
            let plain = tag(&mut client, "/page.html");
            let gzip = ask(&mut client, "/page.html", "Accept-Encoding: gzip\r\n");
            assert_eq!(gzip.header("content-encoding"), Some("gzip"));
            tags.push((plain, gzip.header("etag").unwrap().to_owned()));
        }
        assert_eq!(tags[0], tags[1]);
        assert_ne!(tags[0].0, tags[0].1);
    }

    fn a_date_is_believed_only_of_a_file_that_was_last_changed_in_that_second(backend: Backend) {
        let scratch = Scratch::new();
        let path = scratch.join("file.txt");
        let server = serve(backend, scratch.path(), "");
        let mut client = server.connect();
        let by_date = |client: &mut Client| {
            let date = ask(client, "/file.txt", "").header("last-modified").expect("a date").to_owned();
            ask(client, "/file.txt", &format!("If-Range: {date}\r\nRange: bytes=0-1\r\n")).status
        };
        fs::write(&path, "content").unwrap();
        // The date proves nothing in the second of the write, but does a second later.
        eventually("a date that is believed", || (by_date(&mut client) == 206).then_some(()));
        set_time(&path, SystemTime::now() - Duration::from_secs(10 * DAY));
        thread::sleep(Duration::from_millis(1100));
        assert_eq!(by_date(&mut client), 200, "its status was changed later");
    }

    fn what_has_no_time_has_no_date(backend: Backend) {
        let scratch = Scratch::new();
        let path = scratch.join("old.txt");
        fs::write(&path, "old").unwrap();
        let server = serve(backend, scratch.path(), "");
        let mut client = server.connect();
        let shown = "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n";
        // Times in 1964, on the first day of 1970, and on the second day.
        for (time, expected) in [
            (UNIX_EPOCH - Duration::from_secs(5 * 365 * DAY + 3), None),
            (UNIX_EPOCH, None),
            (UNIX_EPOCH + Duration::from_secs(DAY - 1), None),
            (UNIX_EPOCH + Duration::from_secs(DAY), Some("Fri, 02 Jan 1970 00:00:00 GMT")),
        ] {
            set_time(&path, time);
            let response = ask(&mut client, "/old.txt", shown);
            assert_eq!((response.status, response.header("last-modified")), (200, expected));
            assert!(response.header("etag").is_some());
            let range = ask(&mut client, "/old.txt", "Range: bytes=0-1\r\n");
            assert_eq!((range.status, range.header("last-modified")), (206, expected));
            let tag = response.header("etag").unwrap();
            let kept = ask(&mut client, "/old.txt", &format!("If-None-Match: {tag}\r\n"));
            assert_eq!((kept.status, kept.header("last-modified")), (304, expected));
        }
    }

    fn a_sibling_that_is_older_than_its_file_is_not_served(backend: Backend) {
        let scratch = Scratch::new();
        let now = SystemTime::now() - Duration::from_secs(DAY);
        let write = |name: &str, age: u64| replace(&scratch.join(name), name.as_bytes(), now - Duration::from_secs(age));
        let server = serve(backend, scratch.path(), "");
        let mut client = server.connect();
        let mut encoding = || {
            let response = ask(&mut client, "/page.html", "Accept-Encoding: br, gzip\r\n");
            response.header("content-encoding").map(str::to_owned)
        };
        write("page.html", 10);
        write("page.html.gz", 10);
        write("page.html.br", 11);
        assert_eq!(encoding().as_deref(), Some("gzip"), "of the same time it is of the same content");
        write("page.html", 5);
        assert_eq!(encoding(), None);
        write("page.html.br", 5);
        eventually("the new sibling", || (encoding().as_deref() == Some("br")).then_some(()));
    }
}
