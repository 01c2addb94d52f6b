use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use causeway_xds::resource::format::{
    Fact, Format, HeaderChoice, Holder, Json, Moment, Operator, Part, Point, TimeFormat, TimePart,
    Unit,
};
use causeway_xds::resource::metadata::MetadataValue;

use super::*;

/// A request to `/a?b=c&b=d` that was answered with 201.
struct Double(MetadataValue);

impl Default for Double {
    fn default() -> Self {
        let inner = MetadataValue::Object(vec![("d".into(), MetadataValue::Number(5.0))]);
        let fields = vec![
            ("k".into(), MetadataValue::Text("v".into())),
            ("n".into(), inner),
        ];
        Self(MetadataValue::Object(fields))
    }
}

impl Facts for Double {
    fn request(&self, key: &Key) -> Value<'_> {
        match key {
            Key::Path => Value::Bytes(b"/a?b=c%20&b=d"[..].into()),
            Key::Field(name) if name == "x" => Value::Bytes(b"ab\"\xff"[..].into()),
            _ => Value::Missing,
        }
    }
    fn fact(&self, fact: Fact) -> Value<'_> {
        match fact {
            Fact::ResponseCode => Value::Number(201),
            Fact::Protocol => Value::word("HTTP/2"),
            _ => Value::Missing,
        }
    }
    fn start(&self) -> SystemTime {
        // The last second of a leap year, a Thursday in ISO week 53.
        UNIX_EPOCH + Duration::new(1_609_459_199, 12_340_000)
    }
    fn point(&self, point: Point) -> Option<Duration> {
        match point {
            Point::DownstreamRxBegin => Some(Duration::ZERO),
            Point::UpstreamTxBegin => Some(Duration::from_micros(2500)),
            _ => None,
        }
    }
    fn metadata(&self, of: Holder, namespace: &str, path: &[String]) -> Option<MetadataValue> {
        let known = (namespace, of) == ("ns", Holder::Route);
        known.then(|| self.0.get(path).cloned()).flatten()
    }
    fn dynamic_metadata(&self, namespace: &str) -> Option<Rc<MetadataValue>> {
        (namespace == "ns").then(|| Rc::new(self.0.clone()))
    }
    fn filter_state(&self, key: &str) -> Option<Rc<str>> {
        (key == "k").then(|| Rc::from("a\"b"))
    }
}

fn of_route(path: &[&str]) -> Operator {
    Operator::Metadata {
        of: Holder::Route,
        path: path.iter().map(|key| (*key).to_owned()).collect(),
    }
}

fn command(operator: Operator, max: Option<usize>) -> Part {
    Part::Command { operator, max }
}

fn header(name: &str, or: &str) -> Operator {
    Operator::RequestHeader(HeaderChoice {
        name: name.into(),
        or: or.into(),
    })
}

fn rendered(parts: Vec<Part>) -> String {
    let template = Template::compile(&Format(parts), "-");
    String::from_utf8_lossy(&template.render(&Double::default())).into_owned()
}

#[test]
fn commands_are_replaced_by_what_they_ask_for() {
    let one = |operator| rendered(vec![command(operator, None)]);
    for (operator, text) in [
        (header("none", ":path"), "/a?b=c%20&b=d"),
        (header("none", ""), "-"),
        (Operator::Fact(Fact::ResponseCode), "201"),
        (Operator::QueryParameter("b".into()), "c%20"),
        (Operator::QueryParameter("z".into()), "-"),
        (Operator::QueryParameters { decoded: true }, "b=c &b=d"),
        (of_route(&["ns", "n", "d"]), "5"),
        (of_route(&["ns", "k"]), "v"),
        (
            Operator::DynamicMetadata(vec!["ns".into(), "k".into()]),
            "v",
        ),
        (
            Operator::DynamicMetadata(vec!["other".into(), "k".into()]),
            "-",
        ),
        (
            Operator::FilterState {
                key: "k".into(),
                typed: true,
            },
            r#""a\"b""#,
        ),
        (
            Operator::FilterState {
                key: "k".into(),
                typed: false,
            },
            r#"a"b"#,
        ),
        (of_route(&["ns", "n"]), "{\"d\":5}"),
        (Operator::Environment("A=B".into()), "-"),
        (
            Operator::Span {
                from: Some(Point::DownstreamRxBegin),
                to: Some(Point::UpstreamTxBegin),
                unit: Unit::Microseconds,
            },
            "2500",
        ),
    ] {
        assert_eq!(one(operator.clone()), text, "{operator:?}");
    }
    let cut = rendered(vec![
        Part::Text("<".into()),
        command(header("x", ""), Some(2)),
        Part::Text(">".into()),
    ]);
    assert_eq!(cut, "<ab>");
}

#[test]
fn times_are_spelled_as_the_format_says() {
    let conversions = |letters: &str| letters.chars().map(TimePart::Conversion).collect();
    let time = |parts: Vec<TimePart>| {
        let format = TimeFormat::Parts(parts);
        rendered(vec![command(
            Operator::Time {
                moment: Moment::Start,
                format,
            },
            None,
        )])
    };
    assert_eq!(time(conversions("FTZz")), "2020-12-3123:59:59UTC+0000");
    assert_eq!(time(conversions("aBjGVuy")), "ThuDecember366202053420");
    assert_eq!(time(vec![TimePart::Epoch(3)]), "1609459199012");
    assert_eq!(time(vec![TimePart::Fraction(6)]), "012340");
    assert_eq!(time(vec![TimePart::Seconds(3)]), "59.012");
    assert_eq!(time(vec![TimePart::ExactSeconds]), "59.01234");
}

#[test]
fn json_keeps_types_and_stays_json() {
    let of = |operator| Json::Format(Format(vec![command(operator, None)]));
    let shape = Json::Object(vec![
        ("code".into(), of(Operator::Fact(Fact::ResponseCode))),
        ("lit".into(), Json::Number(1.0)),
        ("none".into(), of(header("none", ""))),
        (
            "x".into(),
            Json::List(vec![of(header("x", "")), Json::Null]),
        ),
    ]);
    let text = |omit| {
        let line = JsonTemplate::compile(&shape, omit).render(&Double::default());
        String::from_utf8(line).unwrap()
    };
    let whole = "{\"code\":201,\"lit\":1,\"none\":null,\"x\":[\"ab\\\"\u{fffd}\",null]}\n";
    assert_eq!(text(false), whole);
    assert_eq!(text(true), whole.replace("\"none\":null,", ""));
}

#[test]
fn addresses_are_written_as_the_library_writes_them() {
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..1_000 {
        let ip: std::net::IpAddr = match random.bool() {
            true => std::net::Ipv4Addr::from(random.u32(..)).into(),
            false => std::net::Ipv6Addr::from(random.u128(..) >> random.u32(..128)).into(),
        };
        let address = std::net::SocketAddr::new(ip, random.u16(..));
        let written = |value: Value<'_>| {
            let mut out = Vec::new();
            value.write(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(Value::Address(address)), address.to_string());
        assert_eq!(written(Value::Ip(ip)), ip.to_string());
    }
}

#[test]
fn json_strings_are_read_back_as_they_were() {
    let mut random = fastrand::Rng::with_seed(4);
    let pieces = [
        "a",
        "bcdefgh",
        "\"",
        "\\",
        "\n",
        "\u{1}",
        "\u{7f}",
        "é",
        "0123456789abcdef",
    ];
    for _ in 0..5_000 {
        let count = random.usize(..8);
        let text: String = (0..count).map(|_| random.choice(pieces).unwrap()).collect();
        let mut out = Vec::new();
        json::write_quoted(text.as_bytes(), &mut out);
        assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
    }
}

#[test]
fn a_text_has_an_end_however_often_a_header_is_asked_for() {
    let parts = (0..20_000).map(|_| command(header(":path", ""), None));
    assert_eq!(rendered(parts.collect()).len(), MAX_TEXT);
}

#[test]
fn what_is_asked_for_is_kept_and_nothing_else() {
    let parts = vec![command(header("x-a", ":path"), None)];
    let mut wants = Wants::default();
    Template::compile(&Format(parts), "-").note(&mut wants);
    assert!(wants.anything && wants.request_head && !wants.route && !wants.points);
    assert_eq!(wants.request_fields(), ["x-a"]);
    assert!(wants.response_fields().is_empty());
}

#[test]
fn no_format_makes_the_formatter_panic() {
    let pieces = [
        "%",
        "%%",
        "(",
        ")",
        ":",
        "?",
        "REQ",
        "RESP",
        "TRAILER",
        "START_TIME",
        "x",
        ":path",
        "é",
        "%REQ(x)%",
        "%REQ(X?:PATH):3%",
        "%START_TIME(%Y-%3f%Ez%s)%",
        "%START_TIME(%",
        "QUERY_PARAM",
        "%RESPONSE_CODE%",
        "%PROTOCOL:2%",
        "%METADATA(ROUTE:ns:n:d):1%",
        "99999999999999999999",
        "%COMMON_DURATION(DS_RX_BEG:US_TX_BEG:us)%",
        "%GRPC_STATUS(NUMBER)%",
        "%PATH(NQ:ORIG)%",
    ];
    let mut random = fastrand::Rng::with_seed(1);
    let mut good = 0;
    for _ in 0..50_000 {
        let text: String = (0..random.usize(..8))
            .map(|_| random.choice(pieces).unwrap())
            .collect();
        let Ok(format) = Format::parse(&text) else {
            continue;
        };
        good += 1;
        let template = Template::compile(&format, "-");
        let template = if random.bool() {
            template.quoted()
        } else {
            template
        };
        assert!(
            template.render(&Double::default()).len() <= MAX_TEXT,
            "{text}"
        );
    }
    assert!(good > 2_000, "{good}");
}
