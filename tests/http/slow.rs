//! Files on a slow file system (rule 36): the loop serves other clients meanwhile.

#[path = "fuse.rs"]
mod fuse;

use std::fs;
use std::os::unix::fs::symlink;

use super::support::client::Client;
use super::support::command::{Glowplug, Scratch, eventually};
use super::support::on_every_backend;
use fuse::Slow;

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// Every request that may need the disk, first and repeated, while the file system gives no answer. The loop goes on to
/// serve echo, the chat, and files of another file system.
fn others_are_served(backend: reactor::Backend, behind: &str, more: &str) {
    let scratch = Scratch::new();
    let slow_directory = scratch.join("slow");
    fs::create_dir(&slow_directory).unwrap();
    let large = vec![b'x'; 100_000];
    let files = [("index.txt", b"index".to_vec()), ("large.bin", large), ("page.html", b"page".to_vec())];
    let Some(slow) = Slow::mount(&slow_directory, &files) else {
        return eprintln!("not tried: no FUSE here, or not for us");
    };
    let root = scratch.join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("quick.txt"), "quick").unwrap();
    symlink(&slow_directory, root.join("slow")).unwrap();
    let root = if behind.is_empty() { slow_directory.clone() } else { root };
    let words = format!(
        "serve --log-level off --echo 127.0.0.1:0 --chat 127.0.0.1:0 --http 127.0.0.1:0 --root {} --listing {more}",
        root.display()
    );
    let mut server = Glowplug::start(backend, &words);
    let _opener = slow.opener();
    let (chat, http) = (server.listens().1, server.listens().1);
    let (mut echo, mut chat) = (server.connect(), Client::connect(&chat));
    assert!(chat.ask("someone").starts_with("CLIENT: "));
    let mut quick = Client::connect(&http);
    if !behind.is_empty() {
        quick.send(get("/quick.txt"));
        assert_eq!(quick.response().body, "quick");
    }
    let mut client = Client::connect(&http);
    for path in ["index.txt", "index.txt", "large.bin", "large.bin", "page.html", "nothing", "", "index.txt"] {
        slow.close();
        client.send(get(&format!("{behind}/{path}")));
        slow.is_asked(path);
        for number in 0..20 {
            assert_eq!(echo.ask(&number.to_string()), format!("You said: {number}"), "{path}");
            assert!(chat.ask("/who").contains("someone"), "{path}");
        }
        if !behind.is_empty() {
            quick.send(get("/quick.txt"));
            assert_eq!(quick.response().body, "quick", "{path}");
        }
        slow.open();
        let response = client.response();
        let expected = files.iter().find(|(name, _)| *name == path).map(|(_, content)| content);
        match expected {
            Some(content) => assert!(response.status == 200 && response.body.as_bytes() == content, "{path}"),
            None if path.is_empty() => assert!(response.status == 200 && response.body.contains("page.html")),
            None => assert_eq!(response.status, 404, "{path}"),
        }
    }
}

/// Starts a server whose root has a link to a slow file system with these files.
fn behind_a_link(backend: reactor::Backend, scratch: &Scratch, files: &[(&str, Vec<u8>)]) -> Option<(Slow, Glowplug)> {
    let (root, slow_directory) = (scratch.join("root"), scratch.join("slow"));
    fs::create_dir(&slow_directory).unwrap();
    fs::create_dir_all(root.join("quick")).unwrap();
    fs::write(root.join("quick/file.txt"), "quick").unwrap();
    symlink(&slow_directory, root.join("slow")).unwrap();
    let slow = Slow::mount(&slow_directory, files)?;
    let words = format!(
        "serve --log-level off --echo 127.0.0.1:0 --chat off --http 127.0.0.1:0 --root {} --listing --follow-links",
        root.display()
    );
    Some((slow, Glowplug::start(backend, &words)))
}

on_every_backend! {
    #[ignore = "mounts a file system by /dev/fuse, which takes root"]
    fn one_look_at_a_slow_path_is_for_all_who_ask_meanwhile(backend: Backend) {
        let scratch = Scratch::new();
        let Some((slow, mut server)) = behind_a_link(backend, &scratch, &[("page.html", b"page".to_vec())]) else {
            return eprintln!("not tried: no FUSE here, or not for us");
        };
        let _opener = slow.opener();
        let (mut echo, http) = (server.connect(), server.listens().1);
        let mut clients: Vec<Client> = (0..9).map(|_| Client::connect(&http)).collect();
        slow.close();
        slow.opened();
        clients.iter_mut().for_each(|client| client.send(get("/slow/page.html")));
        slow.is_asked("the page");
        // By then the loop has read all requests.
        (0..20).for_each(|number| drop(echo.ask(&number.to_string())));
        slow.open();
        for client in &mut clients {
            assert_eq!(client.response().body, "page");
        }
        assert_eq!(slow.opened(), 1);
    }

    #[ignore = "mounts a file system by /dev/fuse, which takes root"]
    fn a_large_file_of_a_slow_file_system_is_not_closed_by_the_loop(backend: Backend) {
        let scratch = Scratch::new();
        let large = vec![b'x'; 300_000];
        let Some((slow, mut server)) = behind_a_link(backend, &scratch, &[("large.bin", large.clone())]) else {
            return eprintln!("not tried: no FUSE here, or not for us");
        };
        let _opener = slow.opener();
        let (mut echo, http) = (server.connect(), server.listens().1);
        let mut client = Client::connect(&http);
        client.send(get("/slow/large.bin"));
        assert!(client.response().body.as_bytes() == large);
        slow.close();
        // The documents below the old root are given up.
        fs::rename(scratch.join("root"), scratch.join("old")).unwrap();
        fs::create_dir(scratch.join("root")).unwrap();
        fs::write(scratch.join("root/new.txt"), "new").unwrap();
        eventually("the new root", || {
            client.send(get("/new.txt"));
            (client.response().body == "new").then_some(())
        });
        slow.is_asked("the close");
        (0..20).for_each(|number| assert_eq!(echo.ask(&number.to_string()), format!("You said: {number}")));
        slow.open();
    }

    #[ignore = "mounts a file system by /dev/fuse, which takes root"]
    fn a_file_system_that_never_answers_leaves_helpers_for_others(backend: Backend) {
        let scratch = Scratch::new();
        let Some((slow, mut server)) = behind_a_link(backend, &scratch, &[("page.html", b"page".to_vec())]) else {
            return eprintln!("not tried: no FUSE here, or not for us");
        };
        let _opener = slow.opener();
        let (mut echo, http) = (server.connect(), server.listens().1);
        slow.close();
        let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(&http)).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            // Each request has a path of its own, so no look serves two requests.
            client.send(get(&format!("/slow/{number}{}", ["", "/"][number % 2])));
        }
        slow.is_asked("the pages");
        (0..20).for_each(|number| drop(echo.ask(&number.to_string())));
        // A helper makes the listing.
        let mut local = Client::connect(&http);
        for _ in 0..5 {
            local.send(get("/quick/"));
            assert!(local.response().body.contains("file.txt"));
        }
        slow.open();
        clients.iter_mut().for_each(|client| assert_eq!(client.response().status, 404));
    }

    #[ignore = "mounts a file system by /dev/fuse, which takes root"]
    fn who_waits_for_a_slow_file_system_keeps_nobody_else_waiting(backend: Backend) {
        others_are_served(backend, "", "");
    }

    #[ignore = "mounts a file system by /dev/fuse, which takes root"]
    fn nor_if_it_lies_behind_a_link_of_a_quick_one(backend: Backend) {
        others_are_served(backend, "/slow", "--follow-links");
    }
}
