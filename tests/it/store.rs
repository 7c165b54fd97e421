//! Conditions of statements that requests cannot be made to meet at will.

use std::time::Duration;

use acs_token_vendor::{
    domain::{
        audit::{Action, Actor, Event, RequestContext, TokenRecord},
        clock::Clock,
        user::{AcsId, UserRef},
    },
    store::{Bound, Recorder, Settings, Store},
};

use crate::support::{Database, database::on_each_database};

on_each_database! {
    /// A slow mint with an older time must not shorten the wait of the next revocation.
    async fn time_of_the_last_mint_never_moves_back(database) {
        let settings = Settings { url: database.url().into(), ..Settings::default() };
        let store = Store::connect(&settings).await.unwrap();
        store.migrate().await.unwrap();
        let now = Clock::default().now();
        let (earlier, later) = (now + Duration::from_secs(1), now + Duration::from_secs(9));
        let user = UserRef::parse("test:alice").unwrap();
        let UserRef::AppUser(app_user) = &user else { panic!("not an id") };
        let claim = store.claim_new(app_user, store.global_state().await.unwrap(), now, later).await.unwrap().unwrap();
        let acs_id = AcsId::parse("8:acs:00000000-0000-0000-0000-000000000001_1").unwrap();
        let event = Event::new(Action::TokenMinted, Actor::Worker, claim.user.clone(), RequestContext::default());
        assert_eq!(store.bind(&claim, "default", &acs_id, &event, None, now).await.unwrap(), Bound::AndCurrent);
        let read = store.find_user(&user, now).await.unwrap().unwrap();
        let token = TokenRecord { fingerprint: String::new(), scopes: String::new(), expires_at: later, generation: 0 };
        let recorder = Recorder::start(&store);
        let record = async |acs_id: &AcsId, time| {
            recorder.record_mint(&read, acs_id, token.clone(), event.clone(), None, time).await.unwrap()
        };
        for time in [later, earlier] {
            assert!(record(&acs_id, time).await);
        }
        assert_eq!(store.find_user(&user, now).await.unwrap().unwrap().last_minted_at, Some(later));
        let other = AcsId::parse("8:acs:00000000-0000-0000-0000-000000000001_2").unwrap();
        assert!(!record(&other, later).await, "another identity");
    }

    /// A claim after a change must not rest on a read from before it.
    async fn claim_needs_the_generation_that_was_read(database) {
        let settings = Settings { url: database.url().into(), ..Settings::default() };
        let store = Store::connect(&settings).await.unwrap();
        store.migrate().await.unwrap();
        let now = Clock::default().now();
        let user = UserRef::parse("test:alice").unwrap();
        let UserRef::AppUser(app_user) = &user else { panic!("not an id") };
        let claim = store.claim_new(app_user, store.global_state().await.unwrap(), now, now).await.unwrap().unwrap();
        store.release_claim(&claim, None, now).await.unwrap();
        let read = store.find_user(&user, now).await.unwrap().unwrap();
        let orphan = Event::new(Action::PossibleOrphan, Actor::Worker, claim.user.clone(), RequestContext::default());
        database.execute("UPDATE users SET generation = generation + 1").await;
        assert!(store.claim_again(&read, now, now, &orphan).await.unwrap().is_none());
        let read = store.find_user(&user, now).await.unwrap().unwrap();
        assert!(store.claim_again(&read, now, now, &orphan).await.unwrap().is_some());
    }
}
