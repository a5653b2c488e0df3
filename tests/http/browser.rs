//! A page with a style sheet, images, a script and a video, in headless Chromium. The page checks whether everything
//! has arrived, and reports by a request for `/report/…`, which the access log shows.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::support::command::{Glowplug, Scratch};
use super::support::on_every_backend;

/// Time limit for a browser to start and load everything, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

const PAGE: &str = r#"<!DOCTYPE html>
<meta charset="utf-8"><title>A page</title>
<link rel="stylesheet" href="style/main.css">
<p id="text">Grüße</p>
<img src="images/one.svg"><img src="images/two%20%C3%BC.svg">
<video src="video.webm" preload="metadata" muted></video>
<script type="module">
import { greeting } from './script.js';
const report = (name, outcome) => fetch(`/report/${name}/${encodeURIComponent(outcome)}`);
const happens = (target, event) => new Promise((resolve, reject) => {
  target.addEventListener(event, resolve, { once: true });
  target.addEventListener('error', () => reject(new Error('error')), { once: true });
});
const check = async (name, look) => {
  try { await report(name, await look()); } catch (error) { await report(name, error.message); }
};
await check('style', () => getComputedStyle(document.getElementById('text')).color);
await check('script', () => greeting);
await check('text', () => document.getElementById('text').textContent);
await check('images', () => [...document.images].map(image => image.naturalWidth).join('-'));
const video = document.querySelector('video');
await check('video', async () => {
  if (video.readyState < 1) await happens(video, 'loadedmetadata');
  const end = video.duration;
  const places = [];
  for (const part of [0.9, 0.1, 0.6]) {
    video.currentTime = end * part;
    await happens(video, 'seeked');
    places.push(Math.round(video.currentTime / end * 10));
  }
  return places.join('-');
});
await check('again', async () => {
  const first = await fetch('data.json', { cache: 'no-cache' });
  const second = await fetch('data.json', { cache: 'no-cache' });
  return `${await first.text()}-${await second.text()}`;
});
await check('range', async () => {
  const answer = await fetch('data.json', { headers: { Range: 'bytes=1-2' } });
  return `${answer.status}-${await answer.text()}`;
});
await report('end', 'reached');
</script>
"#;

/// A browser. A drop ends it with all its children, which form one process group.
struct Browser(Child);

impl Drop for Browser {
    fn drop(&mut self) {
        // Chromium ends its own children.
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), rustix::process::Signal::TERM);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(5) {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn write_site(root: &std::path::Path) {
    for directory in ["style", "images"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    let svg = |width: u32| format!(r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="9"></svg>"#);
    for (path, content) in [
        ("index.html", PAGE.to_owned()),
        ("style/main.css", "p { color: rgb(1, 2, 3) }".to_owned()),
        ("script.js", "export const greeting = 'hello';".to_owned()),
        ("images/one.svg", svg(41)),
        ("images/two ü.svg", svg(42)),
        ("data.json", "[12]".to_owned()),
    ] {
        fs::write(root.join(path), content).unwrap();
    }
    fs::write(root.join("video.webm"), video()).unwrap();
}

/// Makes the video once. Noise makes it some megabytes large, so the browser does not fetch the whole before the script
/// seeks.
fn video() -> &'static [u8] {
    static VIDEO: OnceLock<Vec<u8>> = OnceLock::new();
    VIDEO.get_or_init(|| {
        let scratch = Scratch::new();
        let path = scratch.join("video.webm");
        let noise = "testsrc2=size=240x180:rate=25:duration=20,noise=alls=80:allf=t";
        // Into a file: ffmpeg seeks back to write the length, which a pipe does not allow.
        let made = Command::new("ffmpeg")
            .args(["-v", "error", "-f", "lavfi", "-i", noise, "-c:v", "libvpx", "-b:v", "4M", "-deadline", "realtime"])
            .args(["-cpu-used", "8", "-g", "25"])
            .arg(&path)
            .stdin(Stdio::null())
            .status();
        assert!(made.expect("ffmpeg is installed").success());
        fs::read(path).unwrap()
    })
}

on_every_backend! {
    #[ignore = "needs chromium and ffmpeg"]
    fn a_page_with_a_video_works_in_a_browser(backend: Backend) {
        let scratch = Scratch::new();
        let root = scratch.join("root");
        write_site(&root);
        let log = scratch.join("access.log");
        let words = format!("http --port 0 --log-level off --root {} --access-log {}", root.display(), log.display());
        let server = Glowplug::start(backend, &words);
        let browser = Command::new("chromium")
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--autoplay-policy=no-user-gesture-required", "--disable-background-networking"])
            .arg(format!("--user-data-dir={}", scratch.join("profile").display()))
            .arg(format!("http://{}/", server.tcp()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let browser = Browser(browser.expect("chromium is installed"));
        let begin = Instant::now();
        let lines = loop {
            let text = fs::read_to_string(&log).unwrap_or_default();
            if text.contains("/report/end/") {
                break text;
            }
            assert!(begin.elapsed() < PATIENCE, "it has not come to its end:\n{text}");
            std::thread::sleep(Duration::from_millis(50));
        };
        drop(browser);
        for expected in [
            "/report/style/rgb(1%2C%202%2C%203)",
            "/report/script/hello",
            "/report/text/Gr%C3%BC%C3%9Fe",
            "/report/images/41-42",
            "/report/video/9-1-6",
            "/report/again/%5B12%5D-%5B12%5D",
            "/report/range/206-12",
        ] {
            assert!(lines.contains(&format!("GET {expected} HTTP/1.1")), "{expected} is missing:\n{lines}");
        }
        let count = |part: &str| lines.lines().filter(|line| line.contains(part)).count();
        assert!(count("GET /video.webm HTTP/1.1\" 206 ") >= 2, "it did not seek by ranges:\n{lines}");
        assert!(count("GET /data.json HTTP/1.1\" 304 ") >= 1, "nothing was revalidated:\n{lines}");
        assert_eq!(count("\" 500 ") + count("\" 503 ") + count("\" 400 "), 0, "{lines}");
    }
}
