//! A tree with every kind of file, and both resolvers at every path.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::mkfifoat;

use super::*;
use crate::chance::Chance;
use rustix::fs::CWD;

/// A directory for one test, removed at its end.
struct Tree(PathBuf);

impl Tree {
    /// `root/` is served; `outside/` lies beside it.
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
            // Names that exist below the root, for a resolver that would take the directory above for the root.
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
        // A chain of links as long as the kernel follows, and one link more.
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

fn find(root: &Root, path: &str, reach: Reach) -> Result<Place, Failure> {
    root.find(&root.anchor().unwrap(), path.as_bytes(), reach)
}

fn way(root: &Root) -> Way {
    root.anchor().unwrap().way
}

/// The content of the file at a path, a directory, or the failure.
fn at(root: &Root, path: &str) -> Result<String, Failure> {
    Ok(match find(root, path, Reach::Disk)? {
        Place::File(file, ..) => std::io::read_to_string(file).unwrap(),
        Place::Directory => "(directory)".to_owned(),
    })
}

#[test]
fn what_is_inside_is_found_and_what_is_outside_is_not_by_either_resolver() {
    let tree = Tree::new();
    let roots = [tree.root(Resolver::Kernel, false), tree.root(Resolver::Walk, false)];
    assert_eq!(way(&roots[1]), Way::Walk);
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
        // Neither files nor directories.
        ("fifo", Err(())),
        ("to-fifo", Err(())),
        ("socket", Err(())),
    ];
    for (path, expected) in table {
        for root in &roots {
            let found = at(root, path);
            assert_eq!(found, expected.map(str::to_owned).map_err(|()| Failure::Absent), "{path} by {:?}", way(root));
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
            assert_eq!(at(&root, path), Ok(content.to_owned()), "{path} by {:?}", way(&root));
        }
        for path in ["fifo", "to-fifo", "socket", "loop", "dangling"] {
            assert_eq!(at(&root, path), Err(Failure::Absent), "{path} by {:?}", way(&root));
        }
    }
}

#[test]
fn both_resolvers_agree_about_every_path_and_neither_leaves_the_root() {
    let tree = Tree::new();
    let [kernel, walk] = [tree.root(Resolver::Kernel, false), tree.root(Resolver::Walk, false)];
    if way(&kernel) == Way::Walk {
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
    assert!(matches!(find(&walk, "f", Reach::Memory), Err(Failure::NotNow)));
    let kernel = tree.root(Resolver::Kernel, false);
    if way(&kernel)
        == (Way::Kernel { flags: ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS, resolves_cached: true })
    {
        // A file system may be asked only after a helper has waited for its kind.
        assert!(matches!(find(&kernel, "f", Reach::Memory), Err(Failure::NotNow)));
        let Ok(Place::File(_, _, sight)) = find(&kernel, "f", Reach::Disk) else { panic!("it is there") };
        if sight == Sight::Disk {
            return eprintln!("not tried: temporary files are on no local file system");
        }
        // The file was written a moment ago.
        assert!(matches!(find(&kernel, "f", Reach::Memory), Ok(Place::File(..))));
    }
}

#[test]
fn a_file_that_is_replaced_or_written_to_has_another_stamp() {
    let tree = Tree::new();
    let root = tree.root(Resolver::Kernel, false);
    let Ok(Place::File(_, stamp, sight)) = find(&root, "f", Reach::Disk) else { panic!("it is there") };
    let anchor = root.anchor().unwrap();
    let still = |path| {
        let by_disk = anchor.is_still(path, &stamp, sight, Reach::Disk);
        // Without permission to ask memory, every file counts as changed.
        assert!(by_disk || !anchor.is_still(path, &stamp, sight, Reach::Memory), "{path:?}");
        assert!(by_disk || !anchor.is_still(path, &stamp, Sight::Cached, Reach::Memory), "{path:?}");
        assert!(!anchor.is_still(path, &stamp, Sight::Disk, Reach::Memory));
        by_disk
    };
    assert!(still(c"f") && still(c"a/up") && !still(c"a/f"));
    fs::write(tree.0.join("root/f.new"), "root/f").unwrap();
    fs::rename(tree.0.join("root/f.new"), tree.0.join("root/f")).unwrap();
    assert!(!still(c"f"));
    fs::remove_file(tree.0.join("root/f")).unwrap();
    assert!(!still(c"f"));
}

#[test]
fn a_file_is_looked_at_again_in_the_cheapest_way_that_never_waits() {
    let tree = Tree::new();
    for resolver in [Resolver::Kernel, Resolver::Walk] {
        let root = tree.root(resolver, false);
        let anchor = root.anchor().unwrap();
        let sight = |path| match find(&root, path, Reach::Disk) {
            Ok(Place::File(_, stamp, sight)) => (stamp, sight),
            other => panic!("{other:?}"),
        };
        let (stamp, plain) = sight("a/f");
        if plain == Sight::Disk {
            return eprintln!("not tried: temporary files are on no local file system");
        }
        assert_eq!(plain, Sight::Plain);
        assert!(anchor.is_still(c"a/f", &stamp, plain, Reach::Memory));
        let (stamp, linked) = sight("in-dir/f");
        assert_eq!(linked, Sight::Cached);
        // A walk cannot restrict the kernel to its memory.
        let can_ask = matches!(way(&root), Way::Kernel { resolves_cached: true, .. });
        assert_eq!(anchor.is_still(c"in-dir/f", &stamp, linked, Reach::Memory), can_ask);
    }
}

#[test]
fn a_link_leads_past_no_hidden_name_but_those_of_a_volume() {
    let tree = Tree::new();
    for directory in ["root/.hidden", "root/..2026", "root/..2027", "root/.well-known", "root/a/.well-known"] {
        fs::create_dir_all(tree.0.join(directory)).unwrap();
        fs::write(tree.0.join(directory).join("f"), directory).unwrap();
    }
    for (link, target) in [
        ("to-hidden", ".hidden/f"),
        ("a/to-hidden", "../.hidden/f"),
        ("to-hidden-directory", ".hidden"),
        ("through-hidden", ".hidden/../f"),
        (".hidden-link", "f"),
        ("to-hidden-link", ".hidden-link"),
        ("..data", "..2026"),
        ("volume", "..data/f"),
        ("to-well-known", ".well-known/f"),
        ("a/to-well-known", ".well-known/f"),
    ] {
        symlink(target, tree.0.join("root").join(link)).unwrap();
    }
    for resolver in [Resolver::Kernel, Resolver::Walk] {
        let root = tree.root(resolver, false);
        for path in
            ["to-hidden", "a/to-hidden", "to-hidden-directory/f", "through-hidden", "to-hidden-link", "a/to-well-known"]
        {
            assert_eq!(at(&root, path), Err(Failure::Absent), "{path} by {:?}", way(&root));
        }
        assert_eq!(at(&root, "volume"), Ok("root/..2026".to_owned()), "by {:?}", way(&root));
        assert_eq!(at(&root, "to-well-known"), Ok("root/.well-known".to_owned()), "by {:?}", way(&root));
        symlink("..2027", tree.0.join("root/..data_tmp")).unwrap();
        fs::rename(tree.0.join("root/..data_tmp"), tree.0.join("root/..data")).unwrap();
        assert_eq!(at(&root, "volume"), Ok("root/..2027".to_owned()), "by {:?}", way(&root));
        fs::remove_file(tree.0.join("root/..data")).unwrap();
        symlink("..2026", tree.0.join("root/..data")).unwrap();
        let root = tree.root(resolver, true);
        assert_eq!(at(&root, "to-hidden"), Ok("root/.hidden".to_owned()), "by {:?}", way(&root));
    }
}

#[test]
fn a_root_is_served_from_wherever_its_name_leads_to_now() {
    let tree = Tree::new();
    for name in ["one", "two"] {
        fs::create_dir(tree.0.join(name)).unwrap();
        fs::write(tree.0.join(name).join("f"), name).unwrap();
    }
    let current = tree.0.join("current");
    for (resolver, follows_links) in [Resolver::Kernel, Resolver::Walk].map(|r| [(r, false), (r, true)]).concat() {
        symlink("one", &current).unwrap();
        let root = Root::open(&current, follows_links, resolver).unwrap();
        assert_eq!(root.check(Reach::Disk), Ok(false));
        assert_eq!(at(&root, "f"), Ok("one".to_owned()));
        symlink("two", tree.0.join("next")).unwrap();
        fs::rename(tree.0.join("next"), &current).unwrap();
        assert_eq!(root.check(Reach::Disk), Ok(true));
        assert_eq!((root.check(Reach::Disk), at(&root, "f")), (Ok(false), Ok("two".to_owned())));
        fs::remove_file(&current).unwrap();
        assert_eq!(root.check(Reach::Disk), Ok(true));
        assert!(root.check(Reach::Disk) == Ok(false) && root.anchor().is_none());
        symlink("two", &current).unwrap();
        assert!(matches!(root.check(Reach::Memory), Ok(true) | Err(Failure::NotNow)));
        root.check(Reach::Disk).unwrap();
        assert_eq!(at(&root, "f"), Ok("two".to_owned()));
        fs::remove_file(&current).unwrap();
    }
}

/// Opening a device may rewind a tape or start a watchdog, and opening a fifo would release the process at its other
/// end.
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
        assert_eq!(opened(), 0, "by {:?}", way(&root));
        assert!(at(&root, "f").is_ok());
        assert_eq!(opened(), 1, "it would be noticed");
    }
}
