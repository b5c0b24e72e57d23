package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/lb"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("ADMIN_TEST_SOCKET"); path != "" {
		askAsNobody(path)
		return
	}
	goleak.VerifyTestMain(m)
}

var compareAddrs = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})

func TestRoundTrip(t *testing.T) {
	st := newStub()
	st.status.Losses = []director.Loss{{Interface: "eth0", Counter: "xdp_tx", Frames: 7}}
	c := NewClient(start(t, Options{Director: st}))
	ctx := t.Context()

	status, err := c.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(st.status, status, compareAddrs); d != "" {
		t.Error(d)
	}
	losses, err := c.Losses(ctx)
	if d := cmp.Diff(st.status.Losses, losses); d != "" || err != nil {
		t.Error(d, err)
	}
	listing, err := c.List(ctx, director.Want{Connections: true, Limit: 5})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(st.listing, listing, compareAddrs); d != "" || st.want.Limit != 5 || !st.want.Connections {
		t.Error(d, st.want)
	}
	if _, err := c.List(ctx, director.Want{}); err != nil || st.want.Connections {
		t.Error(err, st.want)
	}
	p := lb.Packet{Proto: lb.UDP, Src: netip.MustParseAddrPort("[2001:db8::1]:5"), Dst: netip.MustParseAddrPort("10.0.0.100:53"), Flags: "SA"}
	e, err := c.Explain(ctx, p)
	if err != nil || len(e.Steps) != 2 || st.packet != p {
		t.Error(e, err, st.packet)
	}
	w := uint16(0)
	if _, err := c.SetWeight(ctx, "web", "10.0.0.11", &w); err != nil || st.weight == nil || *st.weight != 0 {
		t.Error(err, st.weight)
	}
	if _, err := c.SetWeight(ctx, "web", "10.0.0.11", nil); err != nil || st.weight != nil {
		t.Error(err, st.weight)
	}
	for _, f := range []func() error{
		func() error { _, err := c.Reload(ctx); return err },
		func() error { _, err := c.Drain(ctx, "web", "10.0.0.12", director.DrainOptions{}); return err },
		func() error {
			_, err := c.Drain(ctx, "web", "10.0.0.12", director.DrainOptions{Undo: true})
			return err
		},
		func() error { _, err := c.DrainDirector(ctx, false); return err },
		func() error { _, err := c.DrainDirector(ctx, true); return err },
	} {
		if err := f(); err != nil {
			t.Error(err)
		}
	}
	want := []string{"status", "losses", "list", "list", "explain", "weight web 10.0.0.11", "weight web 10.0.0.11", "reload", "drain web 10.0.0.12", "undo web 10.0.0.12", "drain director", "undo director"}
	if !slices.Equal(st.calls, want) {
		t.Errorf("calls %q", st.calls)
	}
}

func TestErrorsComeThrough(t *testing.T) {
	st := newStub()
	socket := start(t, Options{Director: st})
	c := NewClient(socket)
	for _, err := range []error{
		fmt.Errorf("service \"mail\": %w (there are web)", director.ErrNotFound),
		director.ErrStopped,
		errors.New(`/etc/lvx/lvx.yaml:7: weight: found "x", expected 0 to 65535`),
	} {
		st.err = err
		if _, got := c.Reload(t.Context()); got == nil || got.Error() != err.Error() {
			t.Errorf("got %v, want %v", got, err)
		}
		if _, got := c.Status(t.Context()); got == nil || got.Error() != err.Error() {
			t.Errorf("got %v, want %v", got, err)
		}
	}
}

func TestBadRequests(t *testing.T) {
	socket := start(t, Options{Director: newStub()})
	c := NewClient(socket)
	for _, r := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"GET", pathExplain + "?protocol=sctp", "", 400, "protocol"},
		{"GET", pathExplain + "?protocol=tcp&src=x", "", 400, "source"},
		{"GET", pathExplain + "?protocol=tcp&src=1.2.3.4:5&dst=1.2.3.4", "", 400, "destination"},
		{"GET", pathExplain + "?protocol=tcp&src=1.2.3.4:5&dst=1.2.3.4:5&flags=X", "", 400, "flags"},
		{"GET", pathList + "?connections=-1", "", 400, "connections"},
		{"POST", pathWeight, `{"service":"web","weight":70000}`, 400, "request body"},
		{"POST", pathWeight, `{"service":"web","wait":7}`, 400, "unknown field"},
		{"POST", pathDrain, `{"service":"` + strings.Repeat("x", 70000) + `"}`, 400, "too large"},
		{"POST", pathReload, ``, 400, "request body"},
		{"GET", pathReload, "", 405, ""},
		{"POST", pathStatus, "{}", 405, ""},
		{"GET", "/", "", 404, ""},
	} {
		req, _ := http.NewRequestWithContext(t.Context(), r.method, "http://lvx"+r.path, strings.NewReader(r.body))
		res, err := c.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != r.code || !strings.Contains(string(b), r.want) {
			t.Errorf("%s %s: %d %s", r.method, r.path, res.StatusCode, b)
		}
	}
}

func TestClientWithoutServer(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead.sock")
	leaveSocket(t, dead)
	for path, want := range map[string]string{
		filepath.Join(dir, "none.sock"): "no lvx runs here: no socket",
		dead:                            "no lvx runs here: nobody answers on",
	} {
		_, err := NewClient(path).Status(t.Context())
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	l, err := net.Listen("unix", filepath.Join(dir, "other.sock"))
	if err != nil {
		t.Fatal(err)
	}
	answers := http.NewServeMux()
	answers.HandleFunc(pathMetrics, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "too many at a time", http.StatusServiceUnavailable)
	})
	srv := &http.Server{Handler: answers, ReadHeaderTimeout: time.Second}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	other := NewClient(filepath.Join(dir, "other.sock"))
	if _, err := other.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "another version") {
		t.Errorf("got %v", err)
	}
	if err := other.Metrics(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), "too busy") {
		t.Errorf("got %v", err)
	}
	srv.Close()
	<-done
}

// leaveSocket makes a socket file that nobody listens on.
func leaveSocket(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestSocketFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	socket := filepath.Join(dir, "lvx.sock")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	leaveSocket(t, socket) // of a killed daemon
	start(t, Options{Director: newStub(), Socket: socket})
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("%v %v", info, err)
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 {
		t.Errorf("somebody's directory is now %v", info.Mode())
	}
	err := NewServer(Options{Director: newStub(), Socket: socket}).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "another daemon answers there") {
		t.Errorf("second server: %v", err)
	}
	if _, err := NewClient(socket).Status(t.Context()); err != nil {
		t.Errorf("the first one: %v", err)
	}
}

func TestSocketDirectoryIsMade(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	start(t, Options{Director: newStub(), Socket: filepath.Join(dir, "lvx.sock")})
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("%v %v", info, err)
	}
}

func TestSocketInTheWay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := NewServer(Options{Director: newStub(), Socket: path}).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no socket is in the way") {
		t.Error(err)
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Error("the file is gone")
	}
}

func TestNotReadyNoSocket(t *testing.T) {
	ready := make(chan struct{})
	socket := filepath.Join(t.TempDir(), "lvx.sock")
	ctx, cancel := context.WithCancel(t.Context())
	res := make(chan error, 1)
	s := NewServer(Options{Director: newStub(), Socket: socket, Ready: ready})
	go func() { res <- s.Run(ctx) }()
	time.Sleep(20 * time.Millisecond)
	if _, err := os.Stat(socket); err == nil {
		t.Error("the socket is there before its time")
	}
	close(ready)
	<-s.Up()
	if _, err := NewClient(socket).Status(t.Context()); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-res; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(socket); err == nil {
		t.Error("the socket is left behind")
	}

	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if err := NewServer(Options{Director: newStub(), Socket: socket, Ready: make(chan struct{})}).Run(ctx); err != nil {
		t.Error(err)
	}
}

// TestChangesAreRoots asks from a process of another user.
func TestChangesAreRoots(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test needs root: it asks as another user")
	}
	st := newStub()
	socket := start(t, Options{Director: st})
	if err := os.Chmod(socket, 0o666); err != nil { // as if nobody were in the group
		t.Fatal(err)
	}
	for dir := filepath.Dir(socket); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	self := filepath.Join(filepath.Dir(socket), "ask") // where nobody can execute it
	if err := os.WriteFile(self, exe, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = []string{"ADMIN_TEST_SOCKET=" + socket}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	want := "status <nil>\nreload changes are root's (run it as root)\n"
	if err != nil || string(out) != want {
		t.Errorf("got %s, error %v", out, err)
	}
	if !slices.Equal(st.calls, []string{"status"}) {
		t.Errorf("calls %q", st.calls)
	}
}

func askAsNobody(socket string) {
	c := NewClient(socket)
	_, err := c.Status(context.Background())
	fmt.Println("status", err)
	_, err = c.Reload(context.Background())
	fmt.Println("reload", err)
}

// Whoever comes while the file is being removed never locks a file that has
// no name any more: two holders at a time would be the end of it.
func TestLockRace(t *testing.T) {
	dir := t.TempDir()
	var holders, got atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				l, err := Lock(dir, "/x")
				if err != nil {
					continue
				}
				if holders.Add(1) != 1 {
					t.Error("two holders")
				}
				got.Add(1)
				holders.Add(-1)
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got.Load() == 0 {
		t.Error("nobody ever got it")
	}
}

func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	first, err := Lock(dir, "/sys/fs/bpf/lvx")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "sys-fs-bpf-lvx.lock")); err != nil {
		t.Error(err)
	}
	_, err = Lock(dir, "/sys/fs/bpf/lvx/")
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("another lvx runs with pin_dir /sys/fs/bpf/lvx/ (process %d;", os.Getpid())) {
		t.Errorf("second lock: %v", err)
	}
	other, err := Lock(dir, "/sys/fs/bpf/lvx2")
	if err != nil {
		t.Errorf("another pin directory: %v", err)
	}
	other.Close()
	first.Close()
	again, err := Lock(dir, "/sys/fs/bpf/lvx")
	if err != nil {
		t.Fatalf("after the first has gone: %v", err)
	}
	time.AfterFunc(dying/10, func() { again.Close() }) // as a killed one that is about to end
	last, err := Lock(dir, "/sys/fs/bpf/lvx")
	if err != nil {
		t.Fatalf("while the one before ends: %v", err)
	}
	last.Close()
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := Lock("/dev/null", "/x"); err == nil {
		t.Error("lock in a file")
	}
}
