package demo

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/web"
)

// stage is a running cluster: a client, directors that run lvx, and reals.
type stage struct {
	o       Options
	scene   string
	cluster *testenv.Cluster
	client  *testenv.Host
	webs    map[string]*web.Server
	daemons map[string]*testenv.Process
	checks  []Check
}

const vip = "172.25.0.100"

// patience bounds every wait for something that must come.
const patience = 10 * time.Second

func (s *stage) close() error {
	for _, p := range s.daemons {
		_ = p.Stop()
	}
	if s.cluster == nil {
		return nil
	}
	return s.cluster.Close()
}

// title and say tell the audience what happens.
func (s *stage) title(text string) {
	if s.o.Color {
		text = "\x1b[1m" + text + "\x1b[0m"
	}
	fmt.Fprintf(s.o.Out, "\n== %s\n", text)
}

func (s *stage) say(format string, args ...any) {
	fmt.Fprintf(s.o.Out, "   "+format+"\n", args...)
}

// check notes what was seen beside what was to be seen.
func (s *stage) check(what, got, want string) {
	s.verify(what, got, want, got == want)
}

func (s *stage) verify(what, got, want string, ok bool) {
	s.checks = append(s.checks, Check{Scene: s.scene, What: what, Want: want, Got: got, OK: ok})
	mark := "ok"
	if !ok {
		mark = "FAILED: want " + want
	}
	s.say("%s: %s  [%s]", what, got, mark)
}

// build makes the cluster and its reals: the VIP on lo, ARP suppressed, a web
// server that says its name.
func (s *stage) build(ctx context.Context, shape testenv.Shape) error {
	c, err := testenv.New(testenv.Standard(shape))
	if err != nil {
		return fmt.Errorf("network namespaces: %w", err)
	}
	s.cluster, s.client = c, c.Host("client")
	s.webs, s.daemons = map[string]*web.Server{}, map[string]*testenv.Process{}
	for _, h := range c.Hosts() {
		if !strings.HasPrefix(h.Name, "r") || h.Name == "router" {
			continue
		}
		if _, err := h.Run(ctx, s.o.Self, "real", "up", "--vip", vip, "--state", filepath.Join(h.Dir(), "real.json")); err != nil {
			return fmt.Errorf("%s: lvx real up: %w", h.Name, err)
		}
		if s.webs[h.Name], err = h.ServeWeb(":80", ":443", ":2222"); err != nil {
			return err
		}
	}
	return nil
}

// config writes the configuration of a director: the body, and where this
// cluster keeps its things.
func (s *stage) config(d *testenv.Host, body string) (string, error) {
	file := filepath.Join(d.Dir(), "lvx.yaml")
	head := fmt.Sprintf("interface: eth0\npin_dir: %s\nstate_dir: %s\nadmin: {socket: %s}\n", d.PinDir(), d.Dir(), s.socket(d))
	return file, os.WriteFile(file, []byte(head+body), 0o600)
}

func (s *stage) socket(d *testenv.Host) string { return filepath.Join(d.Dir(), "lvx.sock") }

// direct starts lvx on a director, or lets it read a new configuration if it
// runs already.
func (s *stage) direct(ctx context.Context, name, body string) error {
	d := s.cluster.Host(name)
	file, err := s.config(d, body)
	if err != nil {
		return err
	}
	if s.daemons[name] != nil {
		_, err := s.lvx(ctx, name, "reload")
		return err
	}
	return s.start(ctx, name, file)
}

func (s *stage) start(ctx context.Context, name, file string) error {
	p, err := s.cluster.Host(name).Start(s.o.Self, "run", "-c", file)
	if err != nil {
		return err
	}
	s.daemons[name] = p
	return s.await(ctx, func() error {
		select {
		case <-p.Done():
			return testenv.Final(fmt.Errorf("lvx run ended: %s", p.Output()))
		default:
		}
		_, err := s.lvx(ctx, name, "status")
		return err
	})
}

// await polls f until it returns nil, at most for a while.
func (s *stage) await(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return testenv.Poll(ctx, f)
}

// lvx runs a command on a director.
func (s *stage) lvx(ctx context.Context, name string, args ...string) (string, error) {
	d := s.cluster.Host(name)
	return d.Run(ctx, append([]string{s.o.Self}, append(args, "--socket", s.socket(d))...)...)
}

// get asks for a path as curl does: a connection of its own.
func (s *stage) get(url string) (string, error) { return s.getWithin(url, 5*time.Second) }

func (s *stage) getWithin(url string, d time.Duration) (string, error) {
	tr := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // the reals sign for themselves
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return s.client.Dial(ctx, network, addr)
		},
	}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: d}).Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(body)), err
}

// curl asks n times and gives the names of those who answered: "r2 r1 r2".
func (s *stage) curl(n int, url string) string {
	var names []string
	for range n {
		name, err := s.get(url)
		if err != nil {
			name = brief(err)
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

func brief(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Timeout() || os.IsTimeout(err) {
		return "timeout"
	}
	if errors.As(err, &op) {
		return strings.TrimPrefix(op.Err.Error(), "connect: ")
	}
	return err.Error()
}

// evidence is the end of the directors' logs, for a scene that broke off.
func (s *stage) evidence() string {
	var b strings.Builder
	for name, p := range s.daemons {
		out := p.Output()
		fmt.Fprintf(&b, "\n%s:\n%s", name, out[max(0, len(out)-2000):])
	}
	return b.String()
}

// list shows a director's table to the audience.
func (s *stage) list(ctx context.Context, name string) error {
	out, err := s.lvx(ctx, name, "list", "-n")
	for _, l := range strings.Split(strings.TrimRight(out, "\n"), "\n") {
		s.say("%s", l)
	}
	return err
}
