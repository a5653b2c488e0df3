//! Mistakes that do not compile. Each test is a pair of programs: the right program compiles, and the wrong program, which differs in
//! a word, does not.

/// The beginning of each program: a handler with a state and messages, and the arguments of the tests.
macro_rules! before {
    () => {
        "use reactor::{testing::Recorded, *};
        use std::{rc::Rc, time::Duration};
        struct Shop;
        type Cx<'a> = Context<'a, String, u8>;
        impl Handler<u8> for Shop {
            type Connection = String;
            fn on_open(&mut self, _: &mut Cx<'_>) -> String { String::new() }
            fn on_data(&mut self, _: &mut String, _: &mut Input<'_>, _: &mut Cx<'_>) {}
        }
        struct Other;
        impl Handler for Other {
            type Connection = ();
            fn on_open(&mut self, _: &mut Context<'_>) {}
            fn on_data(&mut self, _: &mut (), _: &mut Input<'_>, _: &mut Context<'_>) {}
        }
        struct NoClone;
        const SECOND: Duration = Duration::from_secs(1);
        fn test(
            cx: &mut Cx<'_>,
            app: &mut Application,
            shop: &ServiceHandle<u8>,
            to: Address,
            file: std::os::fd::OwnedFd,
            layer: Box<dyn Layer>,
            id: ConnectionId,
        ) {
            "
    };
}

/// Tests of statements within a function: a name, the compiler's code for the error, the right and the wrong statements.
macro_rules! mistakes {
    ($($name:ident $code:literal $right:literal $wrong:literal)*) => {
        $(
            #[doc = concat!("```no_run\n", before!(), $right, "\n}\n```")]
            #[doc = concat!("```compile_fail,", $code, "\n", before!(), $wrong, "\n}\n```")]
            mod $name {}
        )*
    };
}

mistakes! {
    a_connection_is_opened_with_another_state "E0308"
        r#"cx.connect(to, String::new());"#
        r#"cx.connect(to, 7u32);"#
    a_descriptor_is_watched_with_another_state "E0308"
        r#"cx.watch(file, String::new());"#
        r#"cx.watch(file, 7u32);"#
    a_connection_with_a_layer_is_opened_with_another_state "E0308"
        r#"cx.connect_layered(to, layer, String::new());"#
        r#"cx.connect_layered(to, layer, 7u32);"#
    a_socket_is_adopted_with_another_state "E0308"
        r#"let _ = cx.adopt(file, String::new());"#
        r#"let _ = cx.adopt(file, 7u32);"#
    a_socket_with_a_layer_is_adopted_with_another_state "E0308"
        r#"let _ = cx.adopt_layered(file, layer, String::new());"#
        r#"let _ = cx.adopt_layered(file, layer, 7u32);"#
    a_handle_for_other_messages_is_asked_for "E0308"
        r#"let _: ServiceHandle<u8> = cx.service_handle();"#
        r#"let _: ServiceHandle<String> = cx.service_handle();"#
    a_handle_is_asked_for_by_a_type "E0107"
        r#"cx.service_handle();"#
        r#"cx.service_handle::<String>();"#
    another_message_is_posted "E0308"
        r#"let _ = shop.post(id, 7);"#
        r#"let _ = shop.post(id, "seven");"#
    another_message_is_posted_by_a_thread_that_waits "E0308"
        r#"let _ = shop.post_wait(id, 7);"#
        r#"let _ = shop.post_wait(id, "seven");"#
    another_message_is_posted_to_a_loop "E0308"
        r#"let _ = shop.post_to_loop(0, 7);"#
        r#"let _ = shop.post_to_loop(0, "seven");"#
    another_message_is_posted_to_all_loops "E0308"
        r#"let _ = shop.post_to_all(7);"#
        r#"let _ = shop.post_to_all("seven");"#
    a_message_that_cannot_be_copied_is_posted_to_all_loops "E0277"
        r#"fn f(handle: &ServiceHandle<NoClone>) { let _ = handle.post_to_loop(0, NoClone); }"#
        r#"fn f(handle: &ServiceHandle<NoClone>) { let _ = handle.post_to_all(NoClone); }"#
    a_message_is_posted_to_a_loop_by_the_id_of_a_connection "E0308"
        r#"let _ = shop.post_to_loop(0, 7);"#
        r#"let _ = shop.post_to_loop(id, 7);"#
    a_timer_has_a_key_of_another_type "E0308"
        r#"cx.timers().set(7, SECOND);"#
        r#"cx.timers().set("seven", SECOND);"#
    a_timer_has_a_number_in_place_of_a_time "E0308"
        r#"cx.timers().every(7, SECOND);"#
        r#"cx.timers().every(7, 1000);"#
    a_timer_of_a_connection_has_a_key_of_another_type "E0308"
        r#"cx.at(id).timers().set(7, SECOND);"#
        r#"cx.at(id).timers().set(String::new(), SECOND);"#
    a_deadline_has_a_state "E0061"
        r#"cx.set_deadline(SECOND);"#
        r#"cx.set_deadline(SECOND, 7);"#
    a_connection_is_addressed_by_a_number "E0308"
        r#"cx.at(ConnectionId::from_u64(7)).close();"#
        r#"cx.at(7).close();"#
    a_connection_is_used_while_the_context_is_used "E0499"
        r#"let mut one = cx.at(id); one.close(); cx.close();"#
        r#"let mut one = cx.at(id); cx.close(); one.close();"#
    a_writer_is_used_while_the_context_is_used "E0499"
        r#"if let Some(mut output) = cx.output() { output.put(b"text"); cx.close(); }"#
        r#"if let Some(mut output) = cx.output() { cx.close(); output.put(b"text"); }"#
    a_context_is_lent_to_a_thread "E0277"
        r#"let handle = cx.service_handle(); std::thread::scope(|threads| { threads.spawn(|| handle.handle().halt()); });"#
        r#"std::thread::scope(|threads| { threads.spawn(|| cx.halt()); });"#
    a_number_is_written "E0277"
        r#"cx.write("7");"#
        r#"cx.write(7);"#
    a_topic_is_a_text "E0308"
        r#"cx.publish(&Topic::new("news"), "text");"#
        r#"cx.publish("news", "text");"#
    a_handler_ends_periodic_work_of_the_application "E0599"
        r#"app.add_loop(SECOND, |cx| cx.end_loop());"#
        r#"cx.end_loop();"#
    periodic_work_of_the_application_opens_a_connection "E0308"
        r#"app.add_loop(SECOND, move |cx| cx.halt());"#
        r#"app.add_loop(SECOND, move |cx| { cx.connect(to.clone(), ()); });"#
    periodic_work_of_the_application_asks_for_a_handle "E0277"
        r#"app.add_loop(SECOND, |cx| cx.halt());"#
        r#"app.add_loop(SECOND, |cx| drop(cx.service_handle()));"#
    periodic_work_of_the_application_sets_a_timer "E0599"
        r#"app.add_loop(SECOND, |cx| cx.halt());"#
        r#"app.add_loop(SECOND, |cx| cx.timers().set(7, SECOND));"#
    periodic_work_of_the_application_asks_for_a_turn_of_a_handler "E0599"
        r#"app.add_loop(SECOND, |cx| cx.halt());"#
        r#"app.add_loop(SECOND, |cx| cx.request_turn());"#
    periodic_work_of_the_application_holds_up_the_end_for_a_handler "E0599"
        r#"app.add_loop(SECOND, |cx| cx.halt());"#
        r#"app.add_loop(SECOND, |cx| cx.hold_end(true));"#
    periodic_work_of_the_application_listens_to_a_topic "E0599"
        r#"app.add_loop(SECOND, |cx| { cx.publish(&Topic::new("news"), "text"); });"#
        r#"app.add_loop(SECOND, |cx| { cx.listen(&Topic::new("news")); });"#
    a_factory_that_may_fail_returns_no_result "E0308"
        r#"let _ = Service::try_new(|_| Ok::<_, std::io::Error>(Other));"#
        r#"let _ = Service::try_new::<std::io::Error>(|_| Other);"#
    a_factory_has_the_handle_of_another_service "E0277"
        r#"let _ = Service::once(|_: &ServiceHandle<u8>| Ok::<_, String>(Shop));"#
        r#"let _ = Service::once(|_: &ServiceHandle<String>| Ok::<_, String>(Shop));"#
    a_factory_that_is_called_for_each_loop_gives_away_what_it_has_once "E0507"
        r#"let word = String::new(); let _ = Service::once(move |_| { drop(word); Ok::<_, String>(Other) });"#
        r#"let word = String::new(); let _ = Service::try_new(move |_| { drop(word); Ok::<_, String>(Other) });"#
    periodic_work_has_another_handler "E0631"
        r#"let _ = Service::outbound(|| Shop).every(SECOND, |_: &mut Shop, _: &mut Cx<'_>| {});"#
        r#"let _ = Service::outbound(|| Shop).every(SECOND, |_: &mut Other, _: &mut Cx<'_>| {});"#
    periodic_work_has_the_context_of_another_handler "E0631"
        r#"let _ = Service::outbound(|| Shop).every(SECOND, |_: &mut Shop, _: &mut Cx<'_>| {});"#
        r#"let _ = Service::outbound(|| Shop).every(SECOND, |_: &mut Shop, _: &mut Context<'_>| {});"#
    a_service_has_messages_that_its_handler_does_not_take "E0308"
        r#"let _: Service<Shop, u8> = Service::outbound(|| Shop);"#
        r#"let _: Service<Shop, String> = Service::outbound(|| Shop);"#
    a_service_is_made_of_what_is_no_handler "E0277"
        r#"let _ = app.add_service(Service::outbound(|| Other));"#
        r#"let _ = app.add_service(Service::outbound(|| NoClone));"#
    the_handlers_of_several_loops_share_what_belongs_to_one_thread "E0277"
        r#"let count = std::sync::Arc::new(1); let _ = Service::outbound(move || { let _ = count.clone(); Other });"#
        r#"let count = Rc::new(1); let _ = Service::outbound(move || { let _ = count.clone(); Other });"#
    a_handler_is_added_without_a_service "E0308"
        r#"let _ = app.add_service(Service::outbound(|| Other));"#
        r#"let _ = app.add_service(Other);"#
    an_application_that_runs_is_used "E0382"
        r#"let mut app = Application::new().unwrap(); app.memory(1 << 20); let _ = app.run();"#
        r#"let mut app = Application::new().unwrap(); let _ = app.run(); app.memory(1 << 20);"#
    a_deadline_of_a_service_is_a_number "E0308"
        r#"let _ = Deadlines { idle: Some(SECOND), ..Deadlines::default() };"#
        r#"let _ = Deadlines { idle: Some(60), ..Deadlines::default() };"#
    a_context_of_a_test_has_another_state "E0308"
        r#"let mut test = Recorded::<String, u8>::new(); test.context(id).connect(to, String::new());"#
        r#"let mut test = Recorded::<String, u8>::new(); test.context(id).connect(to, 7);"#
    a_handler_is_tested_with_the_context_of_another_handler "E0308"
        r#"let mut test = Recorded::<String, u8>::new(); Shop.on_open(&mut test.context(id));"#
        r#"let mut test = Recorded::<(), u8>::new(); Shop.on_open(&mut test.context(id));"#
    a_delimiter_is_empty "E0080"
        r#"const LINES: Delimiter = Delimiter::of(b"\r\n", 100); let _ = LINES;"#
        r#"const LINES: Delimiter = Delimiter::of(b"", 100); let _ = LINES;"#
    a_constant_item_has_no_length "E0080"
        r#"const ITEMS: FixedLength = FixedLength::of(3); let _ = ITEMS;"#
        r#"const ITEMS: FixedLength = FixedLength::of(0); let _ = ITEMS;"#
    an_item_is_kept_beyond_the_input "E0505"
        r#"let mut input = Input::of(b"text"); let line = input.until_eol(); drop(line); drop(input);"#
        r#"let bytes = vec![1]; let mut input = Input::of(&bytes); let line = input.until_eol(); drop(bytes); drop(line);"#
}

/// Tests of the callbacks of a handler: a name, the compiler's code for the error, the right and the wrong callback.
macro_rules! callbacks {
    ($($name:ident $code:literal $right:literal $wrong:literal)*) => {
        $(
            #[doc = concat!("```no_run\n", before!(), "}", handler!(), $right, "}\n```")]
            #[doc = concat!("```compile_fail,", $code, "\n", before!(), "}", handler!(), $wrong, "}\n```")]
            mod $name {}
        )*
    };
}

/// The beginning of a handler that keeps a text.
macro_rules! handler {
    () => {
        "
        struct Kept(&'static [u8]);
        impl Handler<u8> for Kept {
            type Connection = String;
            "
    };
}

callbacks! {
    a_handler_returns_another_state "E0053"
        r#"fn on_open(&mut self, _: &mut Cx<'_>) -> String { String::new() }
           fn on_data(&mut self, _: &mut String, _: &mut Input<'_>, _: &mut Cx<'_>) {}"#
        r#"fn on_open(&mut self, _: &mut Cx<'_>) -> u32 { 0 }
           fn on_data(&mut self, _: &mut String, _: &mut Input<'_>, _: &mut Cx<'_>) {}"#
    a_handler_is_lent_another_state "E0053"
        r#"fn on_open(&mut self, _: &mut Cx<'_>) -> String { String::new() }
           fn on_data(&mut self, _: &mut String, _: &mut Input<'_>, _: &mut Cx<'_>) {}"#
        r#"fn on_open(&mut self, _: &mut Cx<'_>) -> String { String::new() }
           fn on_data(&mut self, _: &mut u32, _: &mut Input<'_>, _: &mut Cx<'_>) {}"#
    a_handler_takes_another_message "E0053"
        r#"fn on_open(&mut self, _: &mut Cx<'_>) -> String { String::new() }
           fn on_data(&mut self, _: &mut String, _: &mut Input<'_>, _: &mut Cx<'_>) {}
           fn on_message(&mut self, _: ConnectionId, _: Option<&mut String>, _: u8, _: &mut Cx<'_>) {}"#
        r#"fn on_open(&mut self, _: &mut Cx<'_>) -> String { String::new() }
           fn on_data(&mut self, _: &mut String, _: &mut Input<'_>, _: &mut Cx<'_>) {}
           fn on_message(&mut self, _: ConnectionId, _: Option<&mut String>, _: String, _: &mut Cx<'_>) {}"#
    a_handler_takes_another_key_of_a_timer "E0053"
        r#"fn on_open(&mut self, _: &mut Cx<'_>) -> String { String::new() }
           fn on_data(&mut self, _: &mut String, _: &mut Input<'_>, _: &mut Cx<'_>) {}
           fn on_timer(&mut self, _: u64, _: &mut Cx<'_>) {}"#
        r#"fn on_open(&mut self, _: &mut Cx<'_>) -> String { String::new() }
           fn on_data(&mut self, _: &mut String, _: &mut Input<'_>, _: &mut Cx<'_>) {}
           fn on_timer(&mut self, _: &str, _: &mut Cx<'_>) {}"#
    a_handler_keeps_its_input_beyond_the_callback ""
        r#"fn on_open(&mut self, _: &mut Cx<'_>) -> String { String::new() }
           fn on_data(&mut self, _: &mut String, input: &mut Input<'_>, _: &mut Cx<'_>) { input.take_all(); self.0 = b"text"; }"#
        r#"fn on_open(&mut self, _: &mut Cx<'_>) -> String { String::new() }
           fn on_data(&mut self, _: &mut String, input: &mut Input<'_>, _: &mut Cx<'_>) { self.0 = input.take_all(); }"#
}
