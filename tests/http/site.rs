//! A directory to serve, equal in every test. Its files have known content, so the tags of files in memory are known
//! too.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, Mode, mkfifoat};

use super::support::command::Scratch;

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the RFC's own example.
const MODIFIED: u64 = 784_111_777;

/// Size of a file that is too large to be kept in memory.
pub const LARGE: usize = 300_000;

pub struct Site(Scratch);

impl Site {
    pub fn new() -> Self {
        let site = Site(Scratch::new());
        let letters = "abcdefghijklmnopqrstuvwxyz";
        let table: &[(&str, &str)] = &[
            ("root/index.html", "<h1>root</h1>"),
            ("root/letters", letters),
            ("root/letters.txt", letters),
            ("root/empty.txt", ""),
            ("root/page.html", "<p>page</p>"),
            ("root/picture.svg", "<svg/>"),
            ("root/data.json", "{}"),
            ("root/module.mjs", "export {}"),
            ("root/sp ace.txt", "space"),
            ("root/ü.txt", "umlaut"),
            ("root/a+b&c.txt", "plus"),
            ("root/per%41cent.txt", "percent"),
            ("root/back\\slash.txt", "backslash"),
            ("root/question?.txt", "question"),
            ("root/..dots.txt", "hidden"),
            ("root/.hidden", "hidden"),
            ("root/.htaccess/x.txt", "hidden"),
            ("root/.well-known/security.txt", "contact"),
            ("root/.well-known/.hidden", "hidden"),
            ("root/dir/index.html", "<h1>dir</h1>"),
            ("root/dir/inner.txt", "inner"),
            ("root/dir/.well-known/x.txt", "hidden"),
            ("root/list/one.txt", "1"),
            ("root/list/two <b>.txt", "22"),
            ("root/list/sub/three.txt", "333"),
            ("root/evil.example/x.txt", "evil"),
            ("root/index-is-a-directory/index.html/x.txt", "x"),
            // Encoded siblings, whose content is arbitrary here.
            ("root/encoded.txt", "plain text"),
            ("root/encoded.txt.gz", "as gzip"),
            ("root/encoded.txt.br", "as brotli"),
            ("root/gzipped.html", "plain text"),
            ("root/gzipped.html.gz", "as gzip"),
            ("root/only.txt.gz", "as gzip"),
            ("root/oddly.txt", "plain text"),
            ("root/oddly.txt.br/x", "a directory"),
            ("outside/secret.txt", "secret"),
        ];
        for (path, content) in table {
            site.write(path, content);
        }
        let large: Vec<u8> = (0..LARGE).map(|at| b'a' + (at % 26) as u8).collect();
        site.write("root/large.bin", large);
        site.write("root/long.txt", "plain".repeat(100));
        site.write("root/long.txt.gz", "gzip".repeat(100));
        for (link, target) in [
            ("inside.txt", "letters.txt"),
            ("dir/up.txt", "../letters.txt"),
            ("inside", "dir"),
            ("outside.txt", "../outside/secret.txt"),
            ("outside", "../outside"),
            ("absolute.txt", "/etc/passwd"),
            ("absolute", "/"),
            ("out-and-in.txt", "../root/letters.txt"),
            ("loop", "loop"),
            ("dangling.txt", "nothing.txt"),
            ("to-fifo", "fifo"),
            ("oddly.txt.gz", "../outside/secret.txt"),
        ] {
            symlink(target, site.path("root").join(link)).expect("a link");
        }
        mkfifoat(CWD, site.path("root/fifo"), Mode::RUSR | Mode::WUSR).expect("a fifo");
        std::os::unix::net::UnixListener::bind(site.path("root/socket")).expect("a socket");
        site
    }

    /// The path of a file of the site.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(path)
    }

    pub fn root(&self) -> PathBuf {
        self.path("root")
    }

    /// Writes a file, with the common modification time.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("it has one")).expect("a directory");
        fs::write(&path, content).expect("a file");
        self.set_time(&path, UNIX_EPOCH + Duration::from_secs(MODIFIED));
    }

    fn set_time(&self, path: &Path, time: SystemTime) {
        let file = File::options().write(true).open(path).expect("it is there");
        file.set_times(FileTimes::new().set_modified(time)).expect("a time");
    }
}
