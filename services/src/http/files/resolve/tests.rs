//! A tree with every kind of thing in it, and both resolvers at every path.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, mkfifoat};

use super::*;
use crate::chance::Chance;

/// A directory for one test, gone at its end.
struct Tree(PathBuf);

impl Tree {
    /// `root/` is what is served; `outside/` lies beside it.
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let tree = Tree(std::env::temp_dir().join(format!("glowplug-resolve-{}-{number}", std::process::id())));
        for directory in ["root/a/b/c", "root/empty", "outside/a"] {
            fs::create_dir_all(tree.0.join(directory)).unwrap();
        }
        for file in ["root/f", "root/a/f", "root/a/b/f", "outside/secret", "outside/a/secret"] {
            fs::write(tree.0.join(file), file).unwrap();
        }
        let absolute = tree.0.join("root/f").display().to_string();
        let links = [
            ("in", "f"),
            ("in-slash", "f/"),
            ("in-dir", "a/b"),
            ("in-dir-slash", "a/b/"),
            ("in-dot", "."),
            ("in-dots", "a/../a/./b//f"),
            ("a/up", "../f"),
            ("a/b/up-up", "../../f"),
            ("a/up-dir", ".."),
            ("twice", "in"),
            ("thrice", "in-dir/up-up"),
            ("out", "../outside/secret"),
            ("out-dir", "../outside"),
            ("out-and-in", "../root/f"),
            // Names that exist below the root, should somebody take what is above it for the root itself.
            ("above", "../f"),
            ("a/above", "../../a/f"),
            ("a/out", "../../outside/a"),
            ("over", "../../../../../../../../etc/passwd"),
            ("absolute", &absolute),
            ("absolute-dir", "/etc"),
            ("to-root", "/"),
            ("magic", "/proc/self/root"),
            ("loop", "loop"),
            ("loop-a", "loop-b"),
            ("loop-b", "loop-a"),
            ("dangling", "nothing"),
            ("a/dangling", "../nothing/x"),
            ("through-file", "f/x"),
        ];
        for (link, target) in links {
            symlink(target, tree.0.join("root").join(link)).unwrap();
        }
        // As many links after each other as the kernel follows, and one more.
        symlink("f", tree.0.join("root/chain-1")).unwrap();
        for number in 2..=LINKS_MAX + 1 {
            symlink(format!("chain-{}", number - 1), tree.0.join(format!("root/chain-{number}"))).unwrap();
        }
        mkfifoat(CWD, tree.0.join("root/fifo"), Mode::RUSR | Mode::WUSR).unwrap();
        symlink("fifo", tree.0.join("root/to-fifo")).unwrap();
        std::os::unix::net::UnixListener::bind(tree.0.join("root/socket")).unwrap();
        tree
    }

    fn root(&self, resolver: Resolver, follows_links: bool) -> Root {
        Root::open(&self.0.join("root"), follows_links, resolver).unwrap()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What is at a path: the content of a file, a directory, or why not.
fn at(root: &Root, path: &str) -> Result<String, Failure> {
    Ok(match root.find(path.as_bytes(), Patience::Disk)? {
        Place::File(file, _) => std::io::read_to_string(file).unwrap(),
        Place::Directory => "(directory)".to_owned(),
    })
}

#[test]
fn what_is_inside_is_found_and_what_is_outside_is_not_by_either_resolver() {
    let tree = Tree::new();
    let roots = [tree.root(Resolver::Kernel, false), tree.root(Resolver::Walk, false)];
    assert_eq!(roots[1].way, Way::Walk);
    let table = [
        ("", Ok("(directory)")),
        ("f", Ok("root/f")),
        ("a", Ok("(directory)")),
        ("a/", Ok("(directory)")),
        ("a/b/f", Ok("root/a/b/f")),
        ("f/", Err(())),
        ("f/x", Err(())),
        ("nothing", Err(())),
        ("nothing/x", Err(())),
        // Links.
        ("in", Ok("root/f")),
        ("in/", Err(())),
        ("in-slash", Err(())),
        ("in-dir", Ok("(directory)")),
        ("in-dir/f", Ok("root/a/b/f")),
        ("in-dir-slash/f", Ok("root/a/b/f")),
        ("in-dir-slash", Ok("(directory)")),
        ("in-dot/f", Ok("root/f")),
        ("in-dots", Ok("root/a/b/f")),
        ("a/up", Ok("root/f")),
        ("a/b/up-up", Ok("root/f")),
        ("a/up-dir/f", Ok("root/f")),
        ("a/up-dir", Ok("(directory)")),
        ("a/up-dir/a/up-dir/in", Ok("root/f")),
        ("twice", Ok("root/f")),
        ("thrice", Ok("root/f")),
        ("out", Err(())),
        ("out-dir", Err(())),
        ("out-dir/secret", Err(())),
        ("out-and-in", Err(())),
        ("above", Err(())),
        ("a/above", Err(())),
        ("a/out", Err(())),
        ("a/out/secret", Err(())),
        ("over", Err(())),
        ("absolute", Err(())),
        ("absolute-dir/passwd", Err(())),
        ("to-root/etc/passwd", Err(())),
        ("magic/etc/passwd", Err(())),
        ("loop", Err(())),
        ("loop-a", Err(())),
        ("loop/x", Err(())),
        ("dangling", Err(())),
        ("a/dangling", Err(())),
        ("through-file", Err(())),
        ("chain-40", Ok("root/f")),
        ("chain-41", Err(())),
        // What is neither.
        ("fifo", Err(())),
        ("to-fifo", Err(())),
        ("socket", Err(())),
    ];
    for (path, expected) in table {
        for root in &roots {
            let found = at(root, path);
            assert_eq!(found, expected.map(str::to_owned).map_err(|()| Failure::Absent), "{path} by {:?}", root.way);
        }
    }
    let long = "x".repeat(300);
    assert!(roots.iter().all(|root| at(root, &long) == Err(Failure::Absent)));
}

#[test]
fn links_lead_anywhere_where_that_is_asked_for() {
    let tree = Tree::new();
    for root in [tree.root(Resolver::Kernel, true), tree.root(Resolver::Walk, true)] {
        for (path, content) in [
            ("out", "outside/secret"),
            ("out-dir/a/secret", "outside/a/secret"),
            ("absolute", "root/f"),
            ("in", "root/f"),
        ] {
            assert_eq!(at(&root, path), Ok(content.to_owned()), "{path} by {:?}", root.way);
        }
        for path in ["fifo", "to-fifo", "socket", "loop", "dangling"] {
            assert_eq!(at(&root, path), Err(Failure::Absent), "{path} by {:?}", root.way);
        }
    }
}

#[test]
fn both_resolvers_agree_about_every_path_and_neither_leaves_the_root() {
    let tree = Tree::new();
    let [kernel, walk] = [tree.root(Resolver::Kernel, false), tree.root(Resolver::Walk, false)];
    if kernel.way == Way::Walk {
        return eprintln!("not compared: this kernel has no openat2");
    }
    let names: BTreeSet<String> = ["", "a", "a/b"]
        .iter()
        .flat_map(|directory| fs::read_dir(tree.0.join("root").join(directory)).unwrap())
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .chain(["nothing".to_owned()])
        .collect();
    let names: Vec<_> = names.into_iter().collect();
    let (mut chance, mut found) = (Chance::new(17), 0);
    for _ in 0..20_000 {
        let mut path: Vec<_> = (0..1 + chance.below(5)).map(|_| names[chance.below(names.len())].as_str()).collect();
        if chance.below(4) == 0 {
            path.push("");
        }
        let path = path.join("/");
        let (by_kernel, by_walk) = (at(&kernel, &path), at(&walk, &path));
        assert_eq!(by_kernel, by_walk, "{path}");
        if let Ok(content) = by_kernel {
            found += 1;
            assert!(!content.contains("outside"), "{path}");
        }
    }
    assert!(found > 500, "{found}");
}

#[test]
fn what_memory_does_not_have_is_not_waited_for() {
    let tree = Tree::new();
    let walk = tree.root(Resolver::Walk, false);
    assert!(matches!(walk.find(b"f", Patience::Memory), Err(Failure::NotNow)));
    let kernel = tree.root(Resolver::Kernel, false);
    if kernel.way == (Way::Kernel { flags: ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS, resolves_cached: true })
    {
        // It was written a moment ago.
        assert!(matches!(kernel.find(b"f", Patience::Memory), Ok(Place::File(..))));
    }
}

#[test]
fn a_file_that_is_replaced_or_written_to_has_another_stamp() {
    let tree = Tree::new();
    let root = tree.root(Resolver::Kernel, false);
    let Ok(Place::File(_, stamp)) = root.find(b"f", Patience::Disk) else { panic!("it is there") };
    assert!(root.is_still(c"f", &stamp) && root.is_still(c"a/up", &stamp) && !root.is_still(c"a/f", &stamp));
    fs::write(tree.0.join("root/f.new"), "root/f").unwrap();
    fs::rename(tree.0.join("root/f.new"), tree.0.join("root/f")).unwrap();
    assert!(!root.is_still(c"f", &stamp));
    fs::remove_file(tree.0.join("root/f")).unwrap();
    assert!(!root.is_still(c"f", &stamp));
}

/// Opening a device may rewind a tape or start a watchdog, and whoever waits at the other end of a fifo would go on.
#[test]
fn what_is_no_regular_file_is_not_even_opened() {
    use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
    let tree = Tree::new();
    let watch = init(CreateFlags::NONBLOCK).unwrap();
    for name in ["fifo", "f"] {
        add_watch(&watch, tree.0.join("root").join(name), WatchFlags::OPEN).unwrap();
    }
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut opened = || {
        let mut events = Reader::new(&watch, &mut buffer);
        let mut count = 0;
        while events.next().is_ok_and(|event| event.events().contains(ReadFlags::OPEN)) {
            count += 1;
        }
        count
    };
    for resolver in [Resolver::Kernel, Resolver::Walk] {
        let root = tree.root(resolver, false);
        for path in ["fifo", "to-fifo"] {
            assert_eq!(at(&root, path), Err(Failure::Absent));
        }
        assert_eq!(opened(), 0, "by {:?}", root.way);
        assert!(at(&root, "f").is_ok());
        assert_eq!(opened(), 1, "it would be noticed");
    }
}
