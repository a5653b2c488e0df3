//! A root that is replaced by its name while it is served, and volumes that are switched by a link.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

use super::support::client::Client;
use super::support::command::{Glowplug, Scratch, copy_of_the_command, eventually};
use super::support::{on_every_backend, unless_chaos};

/// Size of a file that is too large to be kept in memory.
const LARGE: usize = 300_000;

/// Every way to serve. Each variant handles the links in a root's name elsewhere.
const WAYS: [&str; 6] =
    ["", "--follow-links", "--loops 2", "--model threads", "--model processes", "--model threads --follow-links"];

fn release(scratch: &Path, name: &str) -> PathBuf {
    let directory = scratch.join("releases").join(name).join("public");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("small.txt"), name).unwrap();
    fs::write(directory.join("large.bin"), name.repeat(LARGE)).unwrap();
    directory
}

/// Switches the link as `ln -s` and `mv -T` do.
fn switch(scratch: &Path, link: &str, target: &str) {
    let next = scratch.join("next");
    symlink(target, &next).unwrap();
    fs::rename(next, scratch.join(link)).unwrap();
}

fn ask(client: &mut Client, path: &str) -> (u16, String) {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    let response = client.response();
    (response.status, response.body)
}

/// Both files come from this release: soon on a connection that has been used before, and on a new one.
fn serves(server: &Glowplug, client: &mut Client, name: &str, more: &str) {
    let large = (200, name.repeat(LARGE));
    eventually(&format!("release {name} with {more:?}"), || (ask(client, "/small.txt").1 == name).then_some(()));
    // Each handler checks the name by itself, half a second after its last check.
    eventually(&format!("release {name}, the large file"), || (ask(client, "/large.bin") == large).then_some(()));
    let mut latest = server.connect();
    eventually(&format!("release {name} for all"), || (ask(&mut latest, "/large.bin") == large).then_some(()));
}

fn http(root: &Path, more: &str) -> String {
    format!("http --port 0 --log-level off --root {} {more}", root.display())
}

fn open_files(server: &Glowplug) -> Vec<PathBuf> {
    let names = fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("it runs");
    names.filter_map(|name| fs::read_link(name.ok()?.path()).ok()).collect()
}

on_every_backend! {
    fn a_root_that_is_replaced_by_name_is_served_from_its_new_place(backend: Backend) {
        for more in WAYS {
            let scratch = Scratch::new();
            for name in ["a", "b", "c"] {
                release(scratch.path(), name);
            }
            symlink("releases/a/public", scratch.join("current")).unwrap();
            let server = Glowplug::start(backend, &http(&scratch.join("current"), more));
            let mut client = server.connect();
            serves(&server, &mut client, "a", more);
            switch(scratch.path(), "current", "releases/b/public");
            serves(&server, &mut client, "b", more);
            // The link is missing for a while.
            fs::remove_file(scratch.join("current")).unwrap();
            eventually("404", || (ask(&mut client, "/small.txt").0 == 404).then_some(()));
            eventually("404", || (ask(&mut client, "/large.bin").0 == 404).then_some(()));
            switch(scratch.path(), "current", "releases/c/public");
            serves(&server, &mut client, "c", more);
            if !more.contains("model") {
                let old = |path: &PathBuf| path.starts_with(scratch.join("releases/b"));
                eventually("what was below the old root to be closed", || (!open_files(&server).iter().any(old)).then_some(()));
            }
        }
    }

    fn so_is_one_behind_a_link_at_any_level_and_one_that_is_renamed_and_made_anew(backend: Backend) {
        for more in WAYS {
            let scratch = Scratch::new();
            for name in ["a", "b"] {
                release(scratch.path(), name);
            }
            symlink("releases/a", scratch.join("current")).unwrap();
            let server = Glowplug::start(backend, &http(&scratch.join("current/public"), more));
            let mut client = server.connect();
            serves(&server, &mut client, "a", more);
            switch(scratch.path(), "current", "releases/b");
            serves(&server, &mut client, "b", more);
            // The new directory may get the inode number of the old one.
            let public = scratch.join("releases/b/public");
            for name in ["c", "d"] {
                fs::rename(&public, scratch.join(&format!("before-{name}"))).unwrap();
                fs::rename(release(scratch.path(), name), &public).unwrap();
                serves(&server, &mut client, name, more);
            }
            fs::remove_dir_all(&public).unwrap();
            eventually("404", || (ask(&mut client, "/small.txt").0 == 404).then_some(()));
            fs::rename(release(scratch.path(), "e"), &public).unwrap();
            serves(&server, &mut client, "e", more);
        }
    }

    /// A volume mounted like a container's configuration: each name is a link through `..data`, and `..data` leads to a
    /// directory that is replaced as a whole.
    fn a_volume_that_is_switched_by_its_link_shows_at_once_and_no_other_name_with_a_dot(backend: Backend) {
        for more in WAYS {
            let scratch = Scratch::new();
            let root = scratch.join("root");
            for (directory, content) in [("..2026_1", "one"), ("..2026_2", "two"), (".git", "secret")] {
                fs::create_dir_all(root.join(directory).join("sub")).unwrap();
                fs::write(root.join(directory).join("f.txt"), content).unwrap();
                fs::write(root.join(directory).join("sub/large.bin"), content.repeat(LARGE)).unwrap();
            }
            for (link, target) in
                [("..data", "..2026_1"), ("f.txt", "..data/f.txt"), ("sub", "..data/sub"), ("git", ".git"), ("x.txt", ".git/f.txt")]
            {
                symlink(target, root.join(link)).unwrap();
            }
            let server = Glowplug::start(backend, &http(&root, more));
            let mut client = server.connect();
            for content in ["one", "two"] {
                if content == "two" {
                    switch(&root, "..data", "..2026_2");
                    fs::remove_dir_all(root.join("..2026_1")).unwrap();
                }
                assert_eq!(ask(&mut client, "/f.txt"), (200, content.to_owned()), "{more}");
                assert_eq!(ask(&mut client, "/sub/large.bin"), (200, content.repeat(LARGE)), "{more}");
            }
            let hidden = if more.contains("--follow-links") { 200 } else { 404 };
            for path in ["/git/f.txt", "/x.txt"] {
                assert_eq!(ask(&mut client, path).0, hidden, "{path} {more}");
            }
            for path in ["/..data/f.txt", "/.git/f.txt", "/..2026_2/f.txt"] {
                assert_eq!(ask(&mut client, path).0, 404, "{path} {more}");
            }
        }
    }

    fn without_any_descriptor_what_is_kept_is_served_and_the_shortage_is_logged(backend: Backend) {
        unless_chaos!("counts descriptors and lines of the log");
        let scratch = Scratch::new();
        let root = release(scratch.path(), "a");
        fs::write(root.join("other.txt"), "other").unwrap();
        fs::write(root.join("other.bin"), vec![b'x'; LARGE]).unwrap();
        symlink("small.txt", root.join("linked.txt")).unwrap();
        let words = format!("http --port 0 --log-level warn --root {}", root.display());
        let mut server = Glowplug::start(backend, &words);
        let mut client = server.connect();
        let kept = ["/small.txt", "/linked.txt"];
        let contents = kept.map(|path| ask(&mut client, path));
        assert!(contents.iter().all(|content| content.0 == 200));
        // No descriptor is free, not even from the reserve.
        let pid = Pid::from_raw(server.pid() as i32);
        let before = getrlimit(Resource::Nofile);
        prlimit(pid, Resource::Nofile, Rlimit { current: Some(3), maximum: before.maximum }).expect("it is ours");
        let begin = Instant::now();
        // Takes longer than a kept document counts as complete.
        for _ in 0..3 {
            for (path, content) in kept.iter().zip(&contents) {
                assert_eq!(&ask(&mut client, path), content, "{path}");
            }
            client.send("GET /other.txt HTTP/1.1\r\nHost: a\r\n\r\n");
            let response = client.response();
            assert_eq!((response.status, response.header("retry-after")), (503, Some("1")));
            // Waits for the next check of the root, and for a second log line.
            thread::sleep(Duration::from_millis(600));
        }
        server.told("no descriptor for files");
        prlimit(pid, Resource::Nofile, before).expect("it is ours");
        eventually("other files", || (ask(&mut client, "/other.txt").0 == 200).then_some(()));
        fs::write(root.join("small.txt"), "edited").unwrap();
        assert_eq!(ask(&mut client, "/small.txt"), (200, "edited".to_owned()));
        drop(client);
        server.signal(Signal::TERM);
        let lines = server.end().stderr.matches("no descriptor for files").count();
        // One line a second at most, however many seconds the machine takes.
        let most = begin.elapsed().as_secs() as usize + 2;
        assert!((1..=most).contains(&lines), "{lines} lines in {:?}", begin.elapsed());
    }
}

/// Needs a process that is not root: `chmod 711` lets others search a directory, but not read its names.
#[test]
fn a_root_that_may_be_searched_and_not_read_is_served() {
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    let scratch = Scratch::new();
    let root = release(scratch.path(), "a");
    for directory in root.ancestors().take_while(|directory| directory.starts_with(scratch.path())) {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o711)).unwrap();
    }
    // Another user cannot search the directory of the command.
    let binary = scratch.join("glowplug");
    copy_of_the_command(&binary);
    let as_nobody = || {
        let mut command = Command::new(&binary);
        command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        if rustix::process::geteuid().is_root() {
            command.uid(65_534).gid(65_534);
        } else {
            fs::set_permissions(&root, fs::Permissions::from_mode(0o111)).unwrap();
        }
        command
    };
    for more in ["", "--follow-links", "--model threads"] {
        let mut command = as_nobody();
        command.args(format!("{} --listing", http(&root, more)).split_whitespace());
        let mut server = Glowplug::spawn(command);
        server.listens();
        let mut client = server.connect();
        assert_eq!(ask(&mut client, "/small.txt"), (200, "a".to_owned()), "{more}");
        assert_eq!(ask(&mut client, "/nothing").0, 404, "{more}");
        assert_eq!(ask(&mut client, "/").0, 403, "{more}");
    }
    // A directory without search permission is an error.
    fs::set_permissions(&root, fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = as_nobody();
    if !rustix::process::geteuid().is_root() {
        fs::set_permissions(&root, fs::Permissions::from_mode(0o600)).unwrap();
    }
    command.args(http(&root, "").split_whitespace());
    let ended = Glowplug::spawn(command).end();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.starts_with("error: root "), "{}", ended.stderr);
    fs::set_permissions(&root, fs::Permissions::from_mode(0o711)).unwrap();
}
