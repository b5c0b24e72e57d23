package ipvsadm

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/pkg/lb"
)

func readTestdata(t *testing.T, file string) string { t.Helper(); return readFile(t, file) }

func readFile(t testing.TB, file string) string {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestParseServices(t *testing.T) {
	got := ParseServices(strings.NewReader(`# comment
http		80/tcp		www		# WorldWideWeb HTTP
www2 80/tcp
domain 53/udp
ssh 22/tcp#no space
short
nothing x/tcp
big 65536/tcp
noproto 80
  indented  7/udp
` + "h\x1b[31m 6/tcp\n"))
	want := map[servicePort]string{{80, "tcp"}: "http", {53, "udp"}: "domain", {22, "tcp"}: "ssh", {7, "udp"}: "indented", {6, "tcp"}: ""}
	if diff := cmp.Diff(want, got.names, cmp.AllowUnexported(servicePort{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if name := got.Name(80, lb.TCP) + got.Name(80, lb.UDP) + got.Name(80, 0); name != "http" {
		t.Errorf("names of port 80: %q, want http of TCP alone", name)
	}
}

func FuzzParseServices(f *testing.F) {
	f.Add("http\t80/tcp\twww # WorldWideWeb HTTP\n")
	f.Add("a 1/udp\nb 1/udp") // two names for one port
	f.Fuzz(func(t *testing.T, text string) {
		for k, name := range ParseServices(strings.NewReader(text)).names {
			if Printable(name) != name || strings.ContainsAny(k.proto, " \t#") {
				t.Errorf("%v: %q", k, name)
			}
		}
	})
}
