//! Directories with more names than one page holds.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};

use super::support::client::Client;
use super::support::command::{Glowplug, Scratch};
use super::support::on_every_backend;

/// Names on one page.
const PAGE: usize = 10_000;

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("file {:05}.txt", (number * 7919) % count)).collect()
}

fn fill(directory: &Path, names: &[String]) {
    fs::create_dir_all(directory).unwrap();
    names.iter().for_each(|name| drop(File::create(directory.join(name)).unwrap()));
}

fn ask(client: &mut Client, path: &str) -> String {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    let response = client.response();
    assert_eq!(response.status, 200, "{path}");
    response.body
}

/// Reads the names on a page, and the link to the next page.
fn read(page: &str) -> (Vec<String>, Option<String>) {
    let links = page.split("href=\"").skip(1).map(|rest| rest.split_once('"').expect("an attribute").0);
    let (pages, names): (Vec<&str>, Vec<&str>) = links.partition(|link| link.starts_with(['?', '.']));
    let next = pages.iter().find(|link| link.starts_with("?after=")).map(|link| (*link).to_owned());
    (names.iter().map(|name| name.replace("%20", " ")).collect(), next)
}

on_every_backend! {
    fn every_name_is_on_a_page_and_all_are_sorted(backend: Backend) {
        let scratch = Scratch::new();
        let mut names = names(2 * PAGE + 3);
        fill(&scratch.join("root/many"), &names);
        // A directory among the files, and names that are not shown.
        fs::create_dir(scratch.join("root/many/file 00005.d")).unwrap();
        fs::write(scratch.join("root/many/.hidden"), "").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", scratch.join("root/many/file 00005.out")).unwrap();
        names.push("file 00005.d/".to_owned());
        names.sort_by_key(|name| name.trim_end_matches('/').to_owned());
        for more in ["", "--model threads", "--model processes", "--loops 2"] {
            let words = format!("http --port 0 --log-level off --listing {more} --root {}", scratch.join("root").display());
            let server = Glowplug::start(backend, &words);
            let mut client = server.connect();
            let (mut shown, mut next, mut pages) = (Vec::new(), Some(String::new()), 0);
            while let Some(query) = next {
                let names;
                (names, next) = read(&ask(&mut client, &format!("/many/{query}")));
                assert!(names.len() <= PAGE, "{} names on a page", names.len());
                shown.extend(names);
                pages += 1;
            }
            assert!(shown == names, "{} of {} names, {more}", shown.len(), names.len());
            assert_eq!(pages, 3);
            // A page may begin after any name, even a name that does not exist.
            let (names, _) = read(&ask(&mut client, "/many/?x=y&after=file%2020001"));
            assert_eq!(names, ["file 20001.txt", "file 20002.txt"]);
            assert_eq!(read(&ask(&mut client, "/many/?after=file%2020002.txt")), (vec![], None));
            client.send("HEAD /many/ HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.response_head().status, 200);
            assert!(ask(&mut client, "/many/file%2000000.txt").is_empty());
        }
    }

    fn one_listing_is_made_for_all_who_ask_meanwhile(backend: Backend) {
        const CLIENTS: usize = 40;
        let scratch = Scratch::new();
        fill(&scratch.join("many"), &names(PAGE));
        let watch = init(CreateFlags::NONBLOCK).unwrap();
        add_watch(&watch, scratch.join("many"), WatchFlags::OPEN | WatchFlags::CLOSE_NOWRITE).unwrap();
        for more in ["", "--loops 2", "--model threads"] {
            let words = format!("http --port 0 --log-level off --listing {more} --root {}", scratch.path().display());
            let server = Glowplug::start(backend, &words);
            let mut clients: Vec<Client> = (0..CLIENTS).map(|_| server.connect()).collect();
            // All requests are there before the first listing is made.
            server.stand_still();
            clients.iter_mut().for_each(|client| client.send("GET /many/ HTTP/1.1\r\nHost: a\r\n\r\n"));
            server.go_on();
            clients.iter_mut().for_each(|client| assert_eq!(client.response().status, 200));
            // Each listing opens and closes the directory; its entries are not opened. Inotify merges equal events in a
            // row, so four helpers at a time would count as one, and forty requests as ten.
            let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
            let mut events = Reader::new(&watch, &mut buffer);
            let mut listings = 0;
            while let Ok(event) = events.next() {
                listings += usize::from(event.events().contains(ReadFlags::OPEN));
            }
            assert!((1..CLIENTS / 4).contains(&listings), "{listings} listings for {CLIENTS} requests, {more}");
        }
    }
}
