package keepalived

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// special are the words, beside those of plain services and virtual routers,
// whose behaviour testdata/words.txt names tests for.
var special = []string{
	"script", "interval", "timeout", "fall", "rise", "init_fail", "track_script", "track_file", "track_process", "track_interface",
	"notify", "notify_master", "notify_backup", "notify_fault", "notify_stop", "quorum_up", "quorum_down", "notify_up", "notify_down",
	"alpha", "omega", "inhibit_on_failure", "quorum", "hysteresis", "sorry_server", "sorry_server_inhibit", "unicast_src_ip", "virtual_ipaddress_excluded", "dev",
	"virtual_routes", "virtual_rules", "connect_ip", "bindto", "SMTP_CHECK", "FILE_CHECK", "digest", "regex_no_match", "misc_dynamic",
	"uthreshold", "lthreshold", "lvs_sync_daemon", "lb_algo", "protocol",
}

// TestWordsHaveTests: every special word has a test of what it does, and every
// test that the list names is there.
func TestWordsHaveTests(t *testing.T) {
	text, err := os.ReadFile("testdata/words.txt")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		words, tests, isRow := strings.Cut(strings.TrimSpace(line), "\t")
		if !isRow || strings.HasPrefix(line, "#") {
			continue
		}
		for _, word := range strings.Fields(words) {
			listed[word] = true
		}
		for _, test := range strings.Fields(tests) {
			file, name, _ := strings.Cut(test, ":")
			source, err := os.ReadFile(filepath.Join("..", "..", file))
			if err != nil || !strings.Contains(string(source), "\nfunc "+name+"(t *testing.T) {") {
				t.Errorf("%s: there is no test %s (%v)", words, test, err)
			}
		}
	}
	for _, word := range special {
		if !listed[word] {
			t.Errorf("words.txt names no test of %s", word)
		}
	}
	for word := range listed {
		if !slices.Contains(special, word) && !isKeyword(grammar, word) {
			t.Errorf("words.txt has %s, which keepalived does not know", word)
		}
	}
}

// isKeyword reports whether a word is known somewhere.
func isKeyword(table map[string]keyword, word string) bool {
	for w, k := range table {
		if w == word || isKeyword(k.block, word) {
			return true
		}
	}
	return false
}
