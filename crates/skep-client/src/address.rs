//! Where a coordinator is, as people write it: `grpc://[user[:password]@]host[:port]`, or `grpc+tls://`.

use std::fmt;

use url::Url;

use crate::error::{Error, Result};

/// The port of a coordinator, if nothing else is said.
const DEFAULT_PORT: u16 = 50051;

/// Where a coordinator is, and who asks.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address {
    host: String,
    port: u16,
    /// Whether the connection is by TLS.
    pub(crate) is_tls: bool,
    /// User and password.
    pub(crate) credentials: Option<(String, String)>,
}

impl Address {
    /// Reads a URL.
    ///
    /// # Errors
    /// `InvalidArgument` if it is none, or not of a coordinator.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let url = Url::parse(text).map_err(|error| {
            Error::invalid(format!("invalid URL: {error}"), "write grpc://HOST:PORT")
        })?;
        let is_tls = match url.scheme() {
            "grpc" | "grpc+tcp" => false,
            "grpc+tls" | "grpcs" => true,
            other => {
                let hint = "write grpc://HOST:PORT, or grpc+tls://HOST:PORT";
                return Err(Error::invalid(format!("unknown scheme \"{other}\""), hint));
            }
        };
        let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
            return Err(Error::invalid("the URL has no host".to_owned(), "write grpc://HOST:PORT"));
        };
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            let message = "nothing may stand behind the port of a coordinator".to_owned();
            return Err(Error::invalid(message, "write grpc://HOST:PORT"));
        }
        let (user, password) = (url.username(), url.password());
        let credentials = (!user.is_empty() || password.is_some())
            .then(|| (decoded(user), decoded(password.unwrap_or_default())));
        let port = url.port().unwrap_or(DEFAULT_PORT);
        Ok(Self { host: host.to_owned(), port, is_tls, credentials })
    }

    /// Returns it as tonic wants it.
    pub(crate) fn endpoint(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Address {
    /// Leaves user and password out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "grpc+tls" } else { "grpc" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Takes the percent signs out of a part of a URL.
fn decoded(part: &str) -> String {
    // `=` and `&` mean something to a form, and are never left as they are here.
    let escaped = part.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    url::form_urlencoded::parse(escaped.as_bytes())
        .next()
        .map(|(name, _)| name.into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for (text, shown) in [
            ("grpc://127.0.0.1:1234", "grpc://127.0.0.1:1234"),
            ("grpc://localhost", "grpc://localhost:50051"),
            ("grpc://[::1]:7/", "grpc://[::1]:7"),
            ("grpc://me:secret@h:1", "grpc://h:1"),
            ("grpc+tls://me:secret@h", "grpc+tls://h:50051"),
            ("grpcs://h:1", "grpc+tls://h:1"),
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn credentials_are_read_and_not_shown() {
        let address = Address::parse("grpc://m%40e:a+b%2F%3D&c@h:1").unwrap();
        assert_eq!(address.credentials, Some(("m@e".to_owned(), "a+b/=&c".to_owned())));
        assert!(!format!("{address:?}").contains("a+b"));
        assert_eq!(Address::parse("grpc://h:1").unwrap().credentials, None);
        let address = Address::parse("grpc://me@h:1").unwrap();
        assert_eq!(address.credentials, Some(("me".to_owned(), String::new())));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for (text, message) in [
            ("nothing", "invalid URL"),
            ("grpc://", "no host"),
            ("grpc://h:99999", "invalid URL"),
            ("ftp://h:1", "unknown scheme \"ftp\""),
            ("grpc://h:1/database", "behind the port"),
        ] {
            let error = Address::parse(text).unwrap_err();
            assert!(error.to_string().contains(message), "{text}: {error}");
            assert!(error.hint().is_some());
        }
    }
}
