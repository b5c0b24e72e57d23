package arch

import (
	"fmt"
	"os"
	"regexp"
	"testing"
)

// spoken are phrases that comments do without, and what they say instead.
var spoken = map[*regexp.Regexp]string{
	regexp.MustCompile(`\btells?\s+whether\b`): `"reports whether"`,
	regexp.MustCompile(`\btells\s+if\b`):       `"reports whether"`,
}

// idioms lists the comments of s that use a phrase of spoken.
func (s source) idioms() []string {
	var found []string
	for _, group := range s.file.Comments {
		for phrase, better := range spoken {
			if phrase.MatchString(group.Text()) {
				found = append(found, fmt.Sprintf("%s: %q in a comment (%s)", s.at(group), phrase.FindString(group.Text()), better))
			}
		}
	}
	return found
}

func TestComments(t *testing.T) {
	for _, files := range sources(t) {
		for _, s := range files {
			report(t, s.idioms())
		}
	}
	for _, path := range cFiles(t) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for phrase, better := range spoken {
			if phrase.Match(text) {
				t.Errorf("%s: %q in a comment (%s)", path, phrase.Find(text), better)
			}
		}
	}
}

func TestIdiomsAreFound(t *testing.T) {
	const text = "package p\n\n// f tells\n// whether it is.\nfunc f() {}\n"
	s, err := parse("p/p.go", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got := s.idioms(); len(got) != 1 {
		t.Errorf("found %q", got)
	}
}
