use proptest::prelude::*;
use reactor::{Input, Output};

use super::model::{Said, check, hear, read};
use super::*;
use crate::pieces::seeds;

fn whole(stream: &[u8]) -> Vec<Said> {
    let heard = hear([stream]);
    for cut in 0..stream.len() {
        assert_eq!(hear([&stream[..cut], &stream[cut..]]), heard, "cut at {cut}");
    }
    assert_eq!(hear(stream.chunks(1)), heard, "byte by byte");
    assert_eq!(read(stream), heard, "the model");
    heard
}

fn message(subject: &str, reply: Option<&str>, fields: &[(&str, &str)], payload: &[u8]) -> Said {
    let fields = fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    Said::Message {
        subject: subject.into(),
        sid: 9,
        reply: reply.map(Into::into),
        headers: Some(Box::new((None, String::new(), fields))),
        payload: payload.to_vec(),
    }
}

/// The first line of a real server, version 2.9.10.
const REAL_INFO: &str = r#"{"server_id":"NAVZ","server_name":"NAVZ","version":"2.9.10","proto":1,"git_commit":"b","go":"go1.19.4","host":"127.0.0.1","port":4222,"headers":true,"auth_required":true,"max_payload":1048576,"jetstream":true,"client_id":5,"client_ip":"127.0.0.1","nonce":"n0","connect_urls":["127.0.0.1:4222","[::1]:4223"],"ldm":true}"#;

#[test]
fn every_operation_of_a_server_is_read_and_names_may_be_written_in_any_case() {
    let stream = b"+OK\r\nping\r\nPONG \r\n-ERR 'Unknown Protocol Operation'\r\nMSG a.b 9 _INBOX.x 2\r\nhi\r\n\
        msg\ta  9 0\r\n\r\nHMSG a 9 22 24\r\nNATS/1.0\r\nk:  v \r\nk:\r\nhi\r\n";
    assert_eq!(
        whole(stream),
        [
            Said::Ok,
            Said::Ping,
            Said::Pong,
            Said::Error(b"Unknown Protocol Operation".to_vec()),
            message("a.b", Some("_INBOX.x"), &[], b"hi"),
            message("a", None, &[], b""),
            Said::Message { subject: b"a".to_vec(), sid: 9, reply: None, headers: None, payload: b"hi".to_vec() },
        ],
        "the block of the last message lacks its empty line"
    );
}

#[test]
fn a_servers_info_is_read_with_the_fields_that_a_client_needs() {
    let heard = whole(format!("INFO {REAL_INFO}\r\n").as_bytes());
    let [Said::Info(info)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((info.version_numbers(), info.max_payload, info.client_id), (Some((2, 9, 10)), 1 << 20, 5));
    assert!(info.headers && info.auth_required && info.jetstream && info.has_nonce && info.ldm);
    assert!(!info.tls_required && !info.tls_available);
    assert_eq!(info.connect_urls, ["127.0.0.1:4222", "[::1]:4223"]);
    let many =
        format!(r#"{{"max_payload":1,"version":"2.10.0-beta.1","connect_urls":[{}"a"]}}"#, r#""b","#.repeat(1000));
    let info = Info::parse(many.as_bytes()).unwrap();
    assert_eq!((info.connect_urls.len(), info.version_numbers()), (URLS_MAX, Some((2, 10, 0))));
    for faulty in ["", "[]", "{}", r#"{"max_payload":-1}"#, r#"{"max_payload":1"#, &"[".repeat(10_000)] {
        assert!(Info::parse(faulty.as_bytes()).is_err(), "{faulty}");
    }
}

#[test]
fn a_status_of_the_server_is_read_and_unreadable_headers_do_not_end_the_connection() {
    for (block, expected) in [
        ("NATS/1.0 503\r\n\r\n", Some((Some(503), "", 0))),
        ("NATS/1.0 404 No Messages\r\n\r\n", Some((Some(404), "No Messages", 0))),
        ("NATS/1.0 100  Idle \r\na: 1\r\n\r\n", Some((Some(100), "Idle", 1))),
        ("NATS/1.0\r\n\r\n", Some((None, "", 0))),
        ("NATS/1.0 \r\n\r\n", Some((None, "", 0))),
        ("NATS/1.0x\r\n\r\n", None),
        ("NATS/1.0503\r\n\r\n", None),
        ("NATS/1.0 50\r\n\r\n", None),
        ("NATS/1.0 5034\r\n\r\n", None),
        ("NATS/1.0\r\nno colon\r\n\r\n", None),
        ("NATS/1.0\r\n: v\r\n\r\n", None),
        ("NATS/1.0\r\na b: v\r\n\r\n", None),
        ("NATS/1.0\r\na: v\nb\r\n\r\n", None),
        ("NATS/1.0\r\n", None),
        ("x", None),
    ] {
        let stream = format!("HMSG a 9 {0} {0}\r\n{block}\r\nPING\r\n", block.len());
        let heard = whole(stream.as_bytes());
        let [Said::Message { headers, .. }, Said::Ping] = &heard[..] else { panic!("{block:?}: {heard:?}") };
        let headers = headers.as_ref().map(|block| (block.0, block.1.as_str(), block.2.len()));
        assert_eq!(headers, expected, "{block:?}");
    }
    let latin = b"HMSG a 9 16 16\r\nNATS/1.0\r\n\xff:\r\n\r\n\r\n";
    assert!(matches!(whole(latin)[..], [Said::Message { headers: None, .. }]));
}

#[test]
fn malformed_operations_are_refused_at_the_end_of_their_line() {
    for line in [
        "",
        " PING",
        "PING x",
        "+OK x",
        "HELLO",
        "MSG",
        "MSG a 9",
        "MSG a 9 b c 1",
        "MSG a x 1",
        "MSG a 9 -1",
        "MSG a 9 +1",
        "HMSG a 9 1",
        "HMSG a 9 0 1",
        "HMSG a 9 2 1",
        "HMSG a 9 b c 1 1",
        "MSG a 99999999999999999999 1",
        "INFO",
        "INFO {",
        "INFO []",
    ] {
        assert_eq!(whole(format!("PONG\r\n{line}\r\nPING\r\n").as_bytes()), [Said::Pong, Said::Malformed], "{line:?}");
    }
    assert_eq!(whole(b"PING\n"), [Said::Malformed], "a line without CR");
    assert_eq!(whole(b"MSG a 9 2\r\nhi!\r\n"), [Said::Malformed], "a payload that is longer than announced");
}

#[test]
fn each_length_over_its_limit_is_refused_before_the_bytes_arrive() {
    for (line, what) in [
        ("MSG a 9 5001\r\n", "message"),
        ("MSG a 9 9223372036854775807\r\n", "message"),
        ("HMSG a 9 61 100\r\n", "header block"),
        ("HMSG a 9 60 5001\r\n", "message"),
    ] {
        assert_eq!(whole(line.as_bytes()), [Said::TooLong(what)], "{line}");
    }
    let line = |name: &str, length: usize| [name.as_bytes(), &vec![b'x'; length - name.len()]].concat();
    for (name, limit) in [("-ERR ", CONTROL_LINE_MAX), ("INFO ", INFO_MAX), ("XINFO ", CONTROL_LINE_MAX)] {
        assert_eq!(hear([&line(name, limit)[..]]), [], "{name}: may still end");
        assert_eq!(hear([&line(name, limit + 1)[..]]), [Said::TooLong("control line")], "{name}");
    }
    let longest = [&line("-ERR ", CONTROL_LINE_MAX - 2)[..], b"\r\n"].concat();
    assert!(matches!(&hear([&longest[..]])[..], [Said::Error(text)] if text.len() == CONTROL_LINE_MAX - 7));
}

#[test]
fn a_message_in_pieces_is_looked_at_twice() {
    let stream = [b"MSG a 1 100000\r\n", &vec![b'x'; 100_000][..], b"\r\n"].concat();
    let mut input = Input::of(&stream[..500]);
    assert!(Decoder::default().next(&mut input).unwrap().is_none());
    // Requested with the line in front of the payload.
    assert!(!input.need(stream.len()) && !input.need(1 << 10));
    assert!(matches!(Decoder::default().next(&mut Input::of(&stream)), Ok(Some(Op::Message(_)))));
}

#[test]
fn subjects_headers_and_names_that_would_break_a_line_are_not_written() {
    for subject in
        ["a b", "", ".", "a.", ".a", "a..b", "a\r\nPING", "a\nb", "a\tb", "a\0", "a\x7f", "a.*", "*", "a.>", ">"]
    {
        assert_eq!(Publish::new(subject, b"").unwrap_err(), EncodeError::Invalid(PUBLISH_SUBJECTS), "{subject:?}");
        assert!(Publish::new("a", b"").unwrap().reply(subject).is_err(), "{subject:?}");
    }
    for subject in ["a b", "", "a..b", "a\r\nb", "a.>.b", ">.a"] {
        assert_eq!(Subscribe::new(subject, 1).unwrap_err(), EncodeError::Invalid(SUBSCRIBE_SUBJECTS), "{subject:?}");
    }
    for subject in ["a", "a.*.b", "*", ">", "a.>", "é.ö", "$JS.API.INFO"] {
        assert!(Subscribe::new(subject, 1).is_ok(), "{subject:?}");
    }
    assert!(Publish::new(b"\xff\xfe", b"").is_ok(), "servers require no UTF-8");
    for (name, value) in
        [("", "v"), ("a b", "v"), ("a:", "v"), ("ä", "v"), ("a", "v\r\nb: c"), ("a", "\n"), ("a", "\0")]
    {
        assert!(Publish::new("a", b"").unwrap().headers(&[(name, value)]).is_err(), "{name:?}: {value:?}");
    }
    for queue in ["", "a b", "a\r\n"] {
        assert!(Subscribe::new("a", 1).unwrap().queue(queue).is_err(), "{queue:?}");
    }
    let long = "x".repeat(CONTROL_LINE_MAX);
    assert_eq!(Publish::new(&long, b"").unwrap_err(), EncodeError::LineTooLong);
    assert_eq!(Publish::new("a", b"").unwrap().reply(&long).unwrap_err(), EncodeError::LineTooLong);
    assert_eq!(Subscribe::new(&long, 1).unwrap_err(), EncodeError::LineTooLong);
}

#[test]
fn secrets_are_in_connect_and_in_no_other_text() {
    for login in [
        Login::User { name: "ann".into(), password: "s3\"cret".into() },
        Login::Token("s3\"cret".into()),
        Login::Nobody,
    ] {
        let mut output = Output::default();
        let connect = Connect { name: "node \"1\"", echo: true, login: &login, tls: false };
        connect.put(&mut output.writer());
        let line = output.to_vec();
        let json = line.strip_prefix(b"CONNECT ").unwrap().strip_suffix(b"\r\n").unwrap();
        let fields: serde_json::Value = serde_json::from_slice(json).unwrap();
        assert_eq!((&fields["name"], &fields["echo"]), (&"node \"1\"".into(), &true.into()));
        let secret = fields.get("pass").or(fields.get("auth_token")).map(|secret| secret.as_str().unwrap());
        assert_eq!(secret, (login != Login::Nobody).then_some("s3\"cret"));
        assert!(!format!("{connect:?}").contains("cret"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn operations_in_any_pieces_are_what_the_model_reads(
        ops in prop::collection::vec(
            prop_oneof![
                ("[A-Za-z.*> ]{0,8}", "[0-9x]{0,3}", "(_INBOX[.a-z]{0,3} )?", ".{0,30}")
                    .prop_map(|(subject, sid, reply, payload)| format!("MSG {subject} {sid} {reply}{}\r\n{payload}\r\n", payload.len())),
                ("NATS/1.0( [0-9]{2,4}( [a-z ]{0,5})?)?\r\n([a-z ]{0,3}:[ a-zé]{0,3}\r\n){0,3}\r?\n?", "[a-z\r\n]{0,9}")
                    .prop_map(|(block, rest)| {
                        format!("HMSG a 9 {} {}\r\n{block}{rest}\r\n", block.len(), block.len() + rest.len())
                    }),
                "(PING|PONG|\\+OK|ping) {0,2}\r\n",
                "-ERR '?[ -~]{0,9}'?\r\n",
                "INFO \\{\"max_payload\": ?[0-9]{1,3}(,\"ldm\":(true|1))?\\}\r\n",
            ],
            0..5,
        ),
        slip in prop::option::of((any::<prop::sample::Index>(), "[\r\n\t :0-9a-z]{0,2}")),
        heading in "(# c[1-9] c[1-9]\n)?",
    ) {
        let mut stream = ops.concat().into_bytes();
        if let Some((at, what)) = slip && !stream.is_empty() {
            let at = at.index(stream.len());
            stream.splice(at..=at, what.bytes());
        }
        check(&[heading.as_bytes(), &stream].concat());
    }

    #[test]
    fn and_of_any_bytes(stream in "[MSGHPIN+OK0-9 \r\n-]{0,40}") {
        check(stream.as_bytes());
    }

    /// A server passes a message on with the subscription's number added.
    #[test]
    fn a_message_that_was_written_is_read(
        subject in "[a-z$_é]{1,9}(\\.[a-z]{1,4}){0,3}",
        reply in prop::option::of("_INBOX\\.[a-z]{1,9}"),
        fields in prop::collection::vec(("[A-Za-z-]{1,9}", "([!-~é]([ -~]{0,5}[!-~])?)?"), 0..3),
        payload in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        let mut publish = Publish::new(&subject, &payload).unwrap().headers(&fields).unwrap();
        if let Some(reply) = &reply {
            publish = publish.reply(reply).unwrap();
        }
        let mut output = Output::default();
        publish.put(&mut output.writer());
        let written = output.to_vec();
        assert_eq!(written.len(), publish.encoded());
        let start = written.windows(subject.len()).position(|bytes| bytes == subject.as_bytes()).unwrap() + subject.len();
        let name = if fields.is_empty() { "MSG" } else { "HMSG" };
        let stream = [format!("{name} {subject} 9").as_bytes(), &written[start..]].concat();
        let mut input = Input::of(&stream);
        let Ok(Some(Op::Message(message))) = Decoder::default().next(&mut input) else { panic!() };
        assert_eq!((message.subject, message.reply), (subject.as_bytes(), reply.as_deref().map(str::as_bytes)));
        assert_eq!((message.payload, input.len()), (&payload[..], 0));
        assert_eq!(message.headers.unwrap().fields().collect::<Vec<_>>(), fields);
    }
}

#[test]
fn the_seeds_of_the_fuzz_target_hold() {
    seeds("nats").iter().for_each(|seed| check(seed));
}
