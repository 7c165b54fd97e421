//! A list of strings that settings may also give as one string with commas, as environment variables must.

use serde::Deserialize;

/// Strings without surrounding spaces if they were given as one string with commas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Form")]
pub struct StringList(pub Vec<String>);

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a list of strings, or a string with commas")]
enum Form {
    Text(String),
    List(Vec<String>),
}

impl From<Form> for StringList {
    fn from(form: Form) -> Self {
        match form {
            Form::List(list) => Self(list),
            Form::Text(text) => {
                Self(text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect())
            }
        }
    }
}
