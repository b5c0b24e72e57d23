package arch

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// cFiles lists the C sources.
func cFiles(t *testing.T) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(filepath.Join("..", "..", "bpf"), func(path string, _ os.DirEntry, err error) error {
		if ext := filepath.Ext(path); ext == ".c" || ext == ".h" {
			found = append(found, path)
		}
		return err
	})
	if err == nil && len(found) == 0 {
		err = errors.New("found no C file")
	}
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestCFunctionLength(t *testing.T) {
	for _, path := range cFiles(t) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		found := cFunctions(string(text))
		if strings.Contains(string(text), "\n{\n") && len(found) == 0 {
			t.Errorf("%s: no function was recognized in it", path)
		}
		for _, f := range found {
			if f.length > maxCFunction {
				t.Errorf("%s:%d: %s has %d lines (at most %d)", path, f.line, f.name, f.length, maxCFunction)
			}
		}
	}
}

// cFunction is a function of a C file, its length counted as of a Go one:
// from the first line of its declaration to its closing brace.
type cFunction struct {
	name         string
	line, length int
}

var cSignature = regexp.MustCompile(`(\w+)\([^()]*(?:\([^()]*\)[^()]*)*\)\s*$`)

// cFunctions finds the functions of a file in the format that clang-format
// keeps: a body begins with a line that is "{" and ends with one that is "}".
func cFunctions(text string) []cFunction {
	var found []cFunction
	var head []string // lines since the last one that ended something
	start := 0
	for i, l := range strings.Split(text, "\n") {
		switch {
		case l == "{":
			if m := cSignature.FindStringSubmatch(strings.Join(head, " ")); m != nil {
				found = append(found, cFunction{name: m[1], line: start})
			}
		case l == "}":
			if n := len(found) - 1; n >= 0 && found[n].length == 0 {
				found[n].length = i + 1 - found[n].line + 1
			}
			head = nil
		case l == "" || strings.HasPrefix(l, "#") || strings.HasSuffix(l, "*/") || strings.HasSuffix(l, ";"):
			head = nil
		case len(head) == 0:
			start, head = i+1, []string{l}
		default:
			head = append(head, l)
		}
	}
	return found
}

func TestCFunctions(t *testing.T) {
	const text = `/* a comment (with a word) */
#define X(y) (y)

struct point {
	int x;
};

static __always_inline int one(struct xdp_md *ctx)
{
	if (ctx) {
		return 1;
	}
	return X(2);
}

SEC("xdp.frags")
int two(struct xdp_md *ctx,
	int more)
{
}
`
	want := []cFunction{{"one", 8, 7}, {"two", 16, 5}}
	if diff := cmp.Diff(want, cFunctions(text), cmp.AllowUnexported(cFunction{})); diff != "" {
		t.Errorf("functions (-want +got):\n%s", diff)
	}
}
