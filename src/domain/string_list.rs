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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lists_and_strings_with_commas_are_equal(list in proptest::collection::vec(r"[^,\s]{1,9}", 0..5), text in any::<String>()) {
            let read = |value: &serde_json::Value| StringList::deserialize(value).unwrap().0;
            prop_assert_eq!(&read(&serde_json::json!(list)), &list);
            prop_assert_eq!(&read(&serde_json::json!(list.join(" , ,"))), &list);
            prop_assert!(read(&serde_json::json!(text)).iter().all(|part| !part.is_empty() && part.trim() == part));
        }
    }
}
