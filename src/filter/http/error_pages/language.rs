//! The languages that pages are written in, and choosing one.

use causeway_xds::proto::causeway::v1::error_page::Appearance;
use http::header::HeaderValue;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    English,
    Korean,
}

/// What a page says in one language.
pub(super) struct Texts {
    /// What is the matter, where the title of the failure would not tell a visitor.
    pub headline: Option<&'static str>,
    pub advice: &'static str,
}

/// The names of what a page shows.
pub(super) struct Labels {
    pub reason: &'static str,
    pub request_id: &'static str,
    pub error_code: &'static str,
    pub again: &'static str,
}

impl Language {
    pub fn name(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Korean => "ko",
        }
    }

    pub fn tag(self) -> HeaderValue {
        HeaderValue::from_static(self.name())
    }

    /// By `Accept-Language` (RFC 9110 section 12.5.4): the weightiest, and of equals the first.
    pub fn wanted(accept: Option<&HeaderValue>) -> Self {
        let text = accept.and_then(|v| v.to_str().ok()).unwrap_or("");
        let mut best: Option<(f32, Self)> = None;
        // What `*` stands for is whatever is not named.
        let mut rest: Option<f32> = None;
        let mut named = [false; 2];
        for range in text.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let tag = parts.next().unwrap_or("");
            let weight = weight(parts);
            let primary = tag.split('-').next().unwrap_or(tag);
            let language = match primary {
                "*" => {
                    rest = rest.or(Some(weight));
                    continue;
                }
                _ if primary.eq_ignore_ascii_case("en") => Self::English,
                _ if primary.eq_ignore_ascii_case("ko") => Self::Korean,
                _ => continue,
            };
            named[language as usize] = true;
            if weight > best.map_or(0.0, |(w, _)| w) {
                best = Some((weight, language));
            }
        }
        if let Some(weight) = rest.filter(|weight| *weight > best.map_or(0.0, |(w, _)| w)) {
            let free = [Self::English, Self::Korean];
            let free = free.into_iter().find(|l| !named[*l as usize]);
            best = free.map(|language| (weight, language)).or(best);
        }
        best.map_or(Self::English, |(_, language)| language)
    }

    pub fn labels(self) -> &'static Labels {
        match self {
            Self::English => &Labels {
                reason: "Reason",
                request_id: "Request ID",
                error_code: "Code",
                again: "Look again",
            },
            Self::Korean => &Labels {
                reason: "사유",
                request_id: "요청 ID",
                error_code: "코드",
                again: "다시 확인",
            },
        }
    }

    pub fn texts(self, appearance: Appearance) -> Texts {
        let (headline, advice) = match self {
            Self::English => english(appearance),
            Self::Korean => korean(appearance),
        };
        Texts {
            headline: Some(headline).filter(|h| !h.is_empty()),
            advice,
        }
    }
}

/// The `q` among the parameters of a range; what cannot be read counts for nothing.
fn weight<'p>(mut parameters: impl Iterator<Item = &'p str>) -> f32 {
    let given = parameters.find_map(|p| p.strip_prefix("q=").or_else(|| p.strip_prefix("Q=")));
    let weight = given.map_or(1.0, |q| q.trim().parse().unwrap_or(0.0));
    if (0.0..=1.0).contains(&weight) {
        weight
    } else {
        0.0
    }
}

fn english(appearance: Appearance) -> (&'static str, &'static str) {
    match appearance {
        Appearance::Plain => (
            "",
            "If this keeps happening, pass what it says below on to your administrator.",
        ),
        Appearance::Starting => (
            "Your app is getting ready",
            "It is not answering yet. This page looks again by itself; you can leave it open.",
        ),
        Appearance::LoginExpired => (
            "Your login has expired",
            "Go back to the portal, sign in, and open the app from there.",
        ),
        Appearance::AddressRefused => (
            "Your network may not use this app",
            "The app only answers to certain addresses, and yours is not among them. Its owner or \
             your administrator can add it.",
        ),
        Appearance::NotFound => (
            "There is no app at this address",
            "It may have been stopped, or the address may be mistyped. Open the app from the \
             portal to get its present address.",
        ),
        Appearance::Overloaded => (
            "This app is very busy",
            "It has more to do than it can take on. Please try again in a moment.",
        ),
    }
}

fn korean(appearance: Appearance) -> (&'static str, &'static str) {
    match appearance {
        Appearance::Plain => ("", "문제가 계속되면 아래의 내용을 관리자에게 알려 주세요."),
        Appearance::Starting => (
            "앱을 준비하고 있습니다",
            "아직 응답하지 않습니다. 이 페이지는 자동으로 다시 확인하므로 열어 두셔도 됩니다.",
        ),
        Appearance::LoginExpired => (
            "로그인이 만료되었습니다",
            "포털로 돌아가 로그인한 뒤 앱을 다시 열어 주세요.",
        ),
        Appearance::AddressRefused => (
            "현재 네트워크에서는 이 앱을 사용할 수 없습니다",
            "이 앱은 허용된 주소에서만 접속할 수 있습니다. 앱 소유자나 관리자에게 주소 추가를 요청해 \
             주세요.",
        ),
        Appearance::NotFound => (
            "이 주소에는 앱이 없습니다",
            "앱이 종료되었거나 주소가 잘못되었을 수 있습니다. 포털에서 앱을 다시 열어 현재 주소를 \
             확인해 주세요.",
        ),
        Appearance::Overloaded => (
            "앱이 매우 혼잡합니다",
            "지금은 요청을 더 받을 수 없습니다. 잠시 후 다시 시도해 주세요.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weightiest_language_is_taken() {
        use Language::{English, Korean};
        for (accept, wanted) in [
            ("", English),
            ("ko", Korean),
            ("KO-kr", Korean),
            ("fr, de;q=0.5", English),
            ("ko-KR,ko;q=0.9,en-US;q=0.8,en;q=0.7", Korean),
            ("en-US,en;q=0.9,ko;q=0.8", English),
            ("en;q=0.2, ko;q=0.3", Korean),
            ("ko;q=0, en;q=0.1", English),
            ("en;q=0", English),
            ("en;q=0, *", Korean),
            ("ko;q=0, *;q=0.1", English),
            ("*", English),
            ("ko;q=0.5, *;q=0.9", English),
            ("ko;q=x", English),
            ("ko;q=7, en;q=0.1", English),
            ("kok", English),
            (";;,,q=1", English),
        ] {
            let value = HeaderValue::from_static(accept);
            assert_eq!(Language::wanted(Some(&value)), wanted, "{accept}");
        }
        assert_eq!(Language::wanted(None), English);
        let bytes = HeaderValue::from_bytes(b"ko\xff").unwrap();
        assert_eq!(Language::wanted(Some(&bytes)), English);
    }
}
