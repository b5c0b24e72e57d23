package keepalived_test

import (
	"fmt"
	"testing"
)

// TestChecksAsKeepalivedReadsThem: what is sent and looked for, and what a
// script asks, is what keepalived sends, looks for and asks.
func TestChecksAsKeepalivedReadsThem(t *testing.T) {
	const service = "virtual_server 192.0.2.1 80 {\n protocol TCP\n lb_kind DR\n real_server 192.0.2.11 80 {\n %s\n }\n}\n"
	for words, want := range map[string]string{
		"UDP_CHECK {\n payload 50 49 4e47\n require_reply 4f4b\n }":         `send: "PING", expect: "OK"`,
		"UDP_CHECK {\n payload \"50 49\" 4e471\n require_reply\n }":         `send: "PING\U00000001"`,
		"UDP_CHECK {\n payload 50 49\n require_reply 4f x1\n }":             "require_reply: wildcards",
		"UDP_CHECK {\n payload 5049 ff\n }":                                 "payload: bytes above 7f",
		"UDP_CHECK {\n payload\n }":                                         "payload: bytes above 7f",
		`HTTP_GET { url { path /` + "\n" + ` regex "\"state\": *\"up\"" }}`: `match: "\"state\": *\"up\""`,
		`HTTP_GET { url { path /` + "\n" + ` regex "1\\.0" }}`:              `match: "1\\.0"`,
		`HTTP_GET { url { path /` + "\n" + ` regex 'all is well' }}`:        `match: "all is well"`,
		`HTTP_GET { url { path /` + "\n" + ` regex all is well }}`:          "regex: keepalived cannot read the pattern",
	} {
		t.Run(words, func(t *testing.T) { holds(t, importText(t, fmt.Sprintf(service, words)), want) })
	}
	const router = "vrrp_script chk {\n script %q\n}\nvrrp_instance VI {\n virtual_router_id 51\n virtual_ipaddress { 192.0.2.1/24 }\n track_script { chk }\n}\n"
	for script, want := range map[string]string{
		"killall -0 kube-controller-manager": `"-x", "kube-controller"]`,
		"killall -0 haproxy":                 `"-x", "haproxy"]`,
		"/usr/bin/killall -0 /usr/sbin/sshd": `"-x", "sshd"]`,
	} {
		t.Run(script, func(t *testing.T) { holds(t, importText(t, fmt.Sprintf(router, script)), want) })
	}
}
