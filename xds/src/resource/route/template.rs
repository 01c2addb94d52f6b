//! URI templates: the extensions that match a path and rewrite it by the parts that matched.

use crate::proto::Any;
use crate::proto::core::TypedExtensionConfig;
use crate::proto::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use crate::proto::envoy::extensions::path::rewrite::uri_template::v3::UriTemplateRewriteConfig;
use crate::reject::Invalid;
use crate::resource::context::{At, fault, required, unknown_type, unpack};
use crate::type_url::message_name;

const MATCH: &str = "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig";
const REWRITE: &str = "envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig";
/// The bound of both message definitions.
const MAX_TEMPLATE: usize = 256;
const MAX_VARIABLES: usize = 5;
const MAX_VARIABLE_NAME: usize = 16;
/// One character of a path segment (RFC 3986 `pchar`, without the star).
const SEGMENT: &str = r"[a-zA-Z0-9\-._\~%!$\&'()+,;:@=]";
/// The same, with the slash.
const SEGMENTS: &str = r"[a-zA-Z0-9\-._\~%!$\&'()+,;:@=/]";

/// A path with `*` (one segment), `**` (any number of them) and variables that name what they match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate {
    /// The whole path, with a group for each variable in order.
    pub pattern: String,
    pub variables: Vec<String>,
}

/// What a path that a [`PathTemplate`] matched becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateRewrite {
    /// The template that the route matches by.
    pub pattern: String,
    pub parts: Vec<RewritePart>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RewritePart {
    Literal(String),
    /// A group of the pattern; the first is 1.
    Group(usize),
}

/// The typed configuration of an extension, which must be of the one type that is known.
fn config(message: TypedExtensionConfig, wanted: &str) -> Result<Any, Invalid> {
    let TypedExtensionConfig {
        name: _,
        typed_config,
    } = message;
    let any = required(typed_config, "typed_config")?;
    if message_name(&any.type_url) != wanted {
        return Err(unknown_type(&any.type_url)).at("typed_config");
    }
    Ok(any)
}

impl PathTemplate {
    pub(crate) fn decode(message: TypedExtensionConfig) -> Result<Self, Invalid> {
        let any = config(message, MATCH)?;
        let decode = || {
            let UriTemplateMatchConfig { path_template } = unpack(&any)?;
            Self::parse(&path_template).at("path_template")
        };
        decode().at("typed_config")
    }

    fn parse(template: &str) -> Result<Self, Invalid> {
        check(template)?;
        let mut parser = Parser {
            rest: template,
            pattern: String::new(),
            variables: Vec::new(),
            ended: false,
        };
        parser.segments(false)?;
        Ok(Self {
            pattern: parser.pattern,
            variables: parser.variables,
        })
    }
}

fn check(template: &str) -> Result<(), Invalid> {
    if template.len() > MAX_TEMPLATE {
        return Err(fault(format!("is longer than {MAX_TEMPLATE} bytes")));
    }
    if !template.starts_with('/') || !template.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(fault("must be a path of visible characters"));
    }
    Ok(())
}

struct Parser<'t> {
    rest: &'t str,
    pattern: String,
    variables: Vec<String>,
    /// `**` was there, behind which only text may follow.
    ended: bool,
}

impl Parser<'_> {
    fn take(&mut self, token: &str) -> bool {
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Segments with the slashes between them; inside a variable, up to its end.
    fn segments(&mut self, inside: bool) -> Result<(), Invalid> {
        if !inside {
            self.slash();
        }
        loop {
            if self.rest.is_empty() || (inside && self.rest.starts_with('}')) {
                return Ok(());
            }
            self.segment(inside)?;
            match self.rest.chars().next() {
                None => {}
                Some('}') if inside => {}
                Some('/') if self.ended => return Err(fault("nothing may follow **")),
                Some('/') => self.slash(),
                // What follows `**` in the same segment is a suffix.
                Some(_) if self.ended && !inside => return self.suffix(),
                Some(_) => return Err(fault("an operator must be a segment of its own")),
            }
        }
    }

    fn slash(&mut self) {
        self.pattern.push('/');
        self.take("/");
    }

    fn segment(&mut self, inside: bool) -> Result<(), Invalid> {
        if self.take("**") {
            self.pattern.push_str(SEGMENTS);
            self.pattern.push('*');
            self.ended = true;
        } else if self.take("*") {
            self.pattern.push_str(SEGMENT);
            self.pattern.push('+');
        } else if self.rest.starts_with('{') && !inside {
            self.variable()?;
        } else {
            let end = self.rest.find(['/', '{', '}', '*']);
            let (text, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
            literal(text, false)?;
            self.pattern.push_str(&regex::escape(text));
            self.rest = rest;
        }
        Ok(())
    }

    /// `{name}` or `{name=segments}`.
    fn variable(&mut self) -> Result<(), Invalid> {
        self.take("{");
        let end = self.rest.find(['=', '}']).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        let mut letters = name.bytes();
        let valid = letters.next().is_some_and(|b| b.is_ascii_alphabetic())
            && letters.all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !valid || name.len() > MAX_VARIABLE_NAME {
            return Err(fault(format!("{name:?} is not the name of a variable")));
        }
        if self.variables.iter().any(|other| other == name) {
            return Err(fault(format!("the variable {name:?} is there twice")));
        }
        if self.variables.len() == MAX_VARIABLES {
            return Err(fault(format!("has more than {MAX_VARIABLES} variables")));
        }
        self.variables.push(name.to_owned());
        self.pattern.push('(');
        if self.take("=") {
            if self.rest.starts_with('}') {
                return Err(fault("a variable matches something"));
            }
            self.segments(true)?;
        } else {
            self.pattern.push_str(SEGMENT);
            self.pattern.push('+');
        }
        self.pattern.push(')');
        match self.take("}") {
            true => Ok(()),
            false => Err(fault("a variable ends with a brace")),
        }
    }

    fn suffix(&mut self) -> Result<(), Invalid> {
        literal(self.rest, false)?;
        self.pattern.push_str(&regex::escape(self.rest));
        self.rest = "";
        Ok(())
    }
}

fn literal(text: &str, slashes: bool) -> Result<(), Invalid> {
    let allowed = |b: u8| {
        b.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&b) || (slashes && b == b'/')
    };
    if text.is_empty() || !text.bytes().all(allowed) {
        return Err(fault(format!("{text:?} is not a part of a path")));
    }
    Ok(())
}

impl TemplateRewrite {
    /// `matched` is the template of the route's match, which must be one.
    pub(super) fn decode(
        message: TypedExtensionConfig,
        matched: Option<&PathTemplate>,
    ) -> Result<Self, Invalid> {
        let any = config(message, REWRITE)?;
        let Some(matched) = matched else {
            return Err(fault("the route does not match by a template"));
        };
        let decode = || {
            let UriTemplateRewriteConfig {
                path_template_rewrite,
            } = unpack(&any)?;
            Self::parse(&path_template_rewrite, matched).at("path_template_rewrite")
        };
        decode().at("typed_config")
    }

    fn parse(mut rest: &str, matched: &PathTemplate) -> Result<Self, Invalid> {
        check(rest)?;
        let mut parts = Vec::new();
        while !rest.is_empty() {
            let end = rest.find('{').unwrap_or(rest.len());
            let (text, behind) = rest.split_at(end);
            if !text.is_empty() {
                literal(text, true)?;
                if text.contains("//") {
                    return Err(fault("has an empty segment"));
                }
                parts.push(RewritePart::Literal(text.to_owned()));
            }
            let Some(behind) = behind.strip_prefix('{') else {
                break;
            };
            let Some((name, behind)) = behind.split_once('}') else {
                return Err(fault("a variable ends with a brace"));
            };
            let known = matched.variables.iter().position(|other| other == name);
            let Some(index) = known else {
                return Err(fault(format!("{name:?} is not in the path template")));
            };
            parts.push(RewritePart::Group(index + 1));
            rest = behind;
        }
        Ok(Self {
            pattern: matched.pattern.clone(),
            parts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::matcher::full_match;

    fn matches(template: &str, path: &str) -> bool {
        let template = PathTemplate::parse(template).unwrap();
        full_match(&template.pattern).unwrap().is_match(path)
    }

    #[test]
    fn a_star_is_one_segment_and_two_are_any_number() {
        for (template, path, hit) in [
            ("/users/{id}/posts/{post=*}", "/users/7/posts/99", true),
            ("/users/{id}/posts/{post=*}", "/users/7/posts/99/x", false),
            ("/users/{id}/posts/{post=*}", "/users//posts/99", false),
            ("/files/{rest=**}.png", "/files/a/b/c.png", true),
            ("/files/{rest=**}.png", "/files/.png", true),
            ("/files/{rest=**}.png", "/files/a.txt", false),
            ("/lit/{v=fix/*}/**", "/lit/fix/z/1/2", true),
            ("/lit/{v=fix/*}/**", "/lit/other/z/1", false),
            ("/*/x", "/a/x", true),
            ("/*/x", "/a/b/x", false),
            ("/a.b", "/axb", false),
            ("/a/**", "/a/", true),
            ("/a/**", "/a", false),
        ] {
            assert_eq!(matches(template, path), hit, "{template} {path}");
        }
    }

    #[test]
    fn a_template_that_is_none_is_refused() {
        for template in [
            "",
            "a",
            "/a b",
            "/{a",
            "/{}",
            "/{a=}",
            "/{1a}",
            "/{a}/{a}",
            "/**/x",
            "/**/*",
            "/a*",
            "/*a",
            "/{a=**}/b",
            "/a//b",
            "/{a}{b}",
            "/{abcdefghijklmnopq}",
            "/{a}/{b}/{c}/{d}/{e}/{f}",
            "/}",
            "/{a={b}}",
            "/a?b",
        ] {
            assert!(PathTemplate::parse(template).is_err(), "{template}");
        }
    }

    #[test]
    fn a_rewrite_names_variables_of_its_template() {
        let template = PathTemplate::parse("/users/{id}/posts/{post=*}").unwrap();
        let rewrite = TemplateRewrite::parse("/p/{post}/by/{id}", &template).unwrap();
        assert_eq!(
            rewrite.parts,
            [
                RewritePart::Literal("/p/".into()),
                RewritePart::Group(2),
                RewritePart::Literal("/by/".into()),
                RewritePart::Group(1),
            ]
        );
        for text in ["/{other}", "p", "/{id", "/a//b", "/*"] {
            assert!(TemplateRewrite::parse(text, &template).is_err(), "{text}");
        }
    }
}
