package bpf

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A reader finds every header by the table of contents at the head of lb.c,
// and every header that is named there exists.
func TestTableOfContents(t *testing.T) {
	text, err := os.ReadFile("lb.c")
	if err != nil {
		t.Fatal(err)
	}
	contents, _, ok := strings.Cut(string(text), "#include")
	if !ok {
		t.Fatal("lb.c: no #include")
	}
	named := map[string]bool{}
	for _, name := range regexp.MustCompile(`\b[a-z0-9_]+\.h\b`).FindAllString(contents, -1) {
		named[name] = true
		if _, err := os.Stat(name); err != nil {
			t.Errorf("the table of contents names %s: %v", name, err)
		}
	}
	headers, err := filepath.Glob("*.h")
	if err != nil || len(headers) == 0 {
		t.Fatalf("headers: %v, %v", headers, err)
	}
	for _, header := range headers {
		if !named[header] {
			t.Errorf("%s is not in lb.c's table of contents", header)
		}
	}
}
