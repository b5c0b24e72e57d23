package admin

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/director"
)

// browse runs a headless Chromium on a page; extra are its options besides.
func browse(t *testing.T, url string, extra ...string) string {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v (scripts/need chromium)", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	args := append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--user-data-dir=" + t.TempDir(),
	}, extra...)
	cmd := exec.CommandContext(ctx, path, append(args, url)...)
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("chromium: %v\n%s", err, problems.String())
	}
	return string(out)
}

// The page shows in a browser what the director says, as text.
func TestPageInBrowser(t *testing.T) {
	st := newStub()
	addr := freeAddr(t)
	start(t, Options{Director: st, Listen: addr})
	dom := browse(t, "http://"+addr+"/", "--dump-dom")
	for _, part := range []string{
		"<h1 id=\"title\">lvx 1.2.3</h1>", "xdp, native, up 1m30s", ">MASTER<", ">10.0.0.11<", ">[2001:db8::12]:81<", "&lt;script&gt;alert(1)&lt;/script&gt;",
		">10.0.0.100<", "3 conn/s", "make room", ">drained<", "<polyline points=", ">sorry<", "sorry server 127.0.0.1", "sent to its real",
	} {
		if !strings.Contains(dom, part) {
			t.Errorf("the page lacks %s", part)
		}
	}
	if strings.Contains(dom, "<script>alert") || strings.Contains(dom, `class="stale"`) {
		t.Errorf("page:\n%s", dom)
	}
	if t.Failed() {
		t.Logf("page:\n%s", dom)
	}
}

// On a phone and in the dark the page can be read: pictures of both are made
// where LVX_SCREENSHOTS says.
func TestPageScreenshots(t *testing.T) {
	dir := os.Getenv("LVX_SCREENSHOTS")
	if dir == "" {
		dir = t.TempDir()
	}
	st := newStub()
	st.varies = true
	st.status.Warnings[0].Text = "not stored: no space left on device"
	st.status.Services[0].Reals[1].Reason = "http GET /health: 503 (want 200-299) (failed 3 times)"
	st.status.Services[0].Reals = append(st.status.Services[0].Reals, director.RealStatus{Addr: real1.Next(), State: "drained", Override: "drain", Active: 2, Since: st.status.Started})
	addr := freeAddr(t)
	start(t, Options{Director: st, Listen: addr})
	for name, options := range map[string][]string{
		"page.png": {"--window-size=1100,900"}, "page-phone-dark.png": {"--window-size=500,900", "--blink-settings=preferredColorScheme=0"},
	} {
		file := filepath.Join(dir, name)
		browse(t, "http://"+addr+"/", append(options, "--screenshot="+file)...)
		if info, err := os.Stat(file); err != nil || info.Size() < 10_000 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

// promtool accepts the alert rules, and what a scrape gives.
func TestPromtool(t *testing.T) {
	out, err := exec.Command("promtool", "check", "rules", "../../contrib/prometheus/lvx.rules.yaml").CombinedOutput()
	if err != nil {
		t.Errorf("%v (scripts/need promtool)\n%s", err, out)
	}
	var b strings.Builder
	if err := NewClient(start(t, Options{Director: newStub()})).Metrics(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(b.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}
