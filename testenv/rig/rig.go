// Package rig is a cluster that runs lvx: directors with the daemon, reals
// with the VIP on lo and a web server, a client that asks. The demo and the
// end-to-end tests stand on it.
//
// It drives lvx from outside, by its configuration file and its commands, as
// an operator does; it judges nothing.
package rig

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
	"sync"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/web"
)

// VIP is the virtual address that every rig uses.
const VIP = "172.25.0.100"

// Patience bounds every wait for something that must come.
const Patience = 30 * time.Second

// Rig is a running cluster.
type Rig struct {
	Self    string // the lvx binary
	Cluster *testenv.Cluster
	Client  *testenv.Host
	Webs    map[string]*web.Server      // by host
	Daemons map[string]*testenv.Process // lvx run, by director

	Interfaces []string // that lvx serves on a director; eth0 if there are none

	loads *loads
}

// loads is what must end before the daemons do.
type loads struct {
	mu   sync.Mutex
	ends []func()
}

// New makes the cluster and its reals.
func New(ctx context.Context, self string, shape testenv.Shape) (*Rig, error) {
	c, err := testenv.New(testenv.Standard(shape))
	if err != nil {
		return nil, fmt.Errorf("network namespaces: %w", err)
	}
	r := &Rig{
		Self: self, Cluster: c, Client: c.Host("client"),
		Webs: map[string]*web.Server{}, Daemons: map[string]*testenv.Process{}, loads: new(loads),
	}
	for _, h := range c.Hosts() {
		if !strings.HasPrefix(h.Name, "r") || h.Name == "router" {
			continue
		}
		if err := r.equip(ctx, h); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	return r, nil
}

// equip makes a host a real server.
func (r *Rig) equip(ctx context.Context, h *testenv.Host) error {
	if _, err := h.Run(ctx, r.Self, "real", "up", "--vip", VIP, "--state", filepath.Join(h.Dir(), "real.json")); err != nil {
		return fmt.Errorf("%s: lvx real up: %w", h.Name, err)
	}
	w, err := h.ServeWeb(":80", ":443", ":2222")
	r.Webs[h.Name] = w
	return err
}

// beforeClose has end called before the daemons end: a test that has failed leaves its
// load running, whose requests would otherwise pile up.
func (r *Rig) beforeClose(end func()) {
	if r.loads == nil {
		r.loads = new(loads)
	}
	r.loads.mu.Lock()
	defer r.loads.mu.Unlock()
	r.loads.ends = append(r.loads.ends, end)
}

// Close ends the load, the daemons, and takes the cluster away.
func (r *Rig) Close() error {
	if r.loads != nil {
		r.loads.mu.Lock()
		for _, end := range r.loads.ends {
			end()
		}
		r.loads.mu.Unlock()
	}
	for _, p := range r.Daemons {
		_ = p.Stop()
	}
	return r.Cluster.Close()
}

// Config writes the configuration of a director: the body, and where this
// cluster keeps its things.
func (r *Rig) Config(name, body string) (string, error) {
	d := r.Cluster.Host(name)
	file := filepath.Join(d.Dir(), "lvx.yaml")
	interfaces := "interface: eth0"
	if len(r.Interfaces) > 0 {
		interfaces = "interfaces: [" + strings.Join(r.Interfaces, ", ") + "]"
	}
	head := fmt.Sprintf("%s\npin_dir: %s\nstate_dir: %s\nadmin: {socket: %s}\n", interfaces, d.PinDir(), d.Dir(), r.Socket(name))
	return file, os.WriteFile(file, []byte(head+body), 0o600)
}

// Socket is where a director's daemon answers.
func (r *Rig) Socket(name string) string {
	return filepath.Join(r.Cluster.Host(name).Dir(), "lvx.sock")
}

// Direct starts lvx on a director, or lets it read a new configuration if it
// runs already.
func (r *Rig) Direct(ctx context.Context, name, body string) error {
	if _, err := r.Config(name, body); err != nil {
		return err
	}
	if r.Daemons[name] != nil {
		_, err := r.LVX(ctx, name, "reload")
		return err
	}
	return r.Start(ctx, name)
}

// Start runs lvx on a director with the configuration that is there, and
// waits until it answers.
func (r *Rig) Start(ctx context.Context, name string) error {
	file := filepath.Join(r.Cluster.Host(name).Dir(), "lvx.yaml")
	p, err := r.Cluster.Host(name).Start(r.Self, "run", "-c", file)
	if err != nil {
		return err
	}
	r.Daemons[name] = p
	return Await(ctx, func() error {
		select {
		case <-p.Done():
			return testenv.Final(fmt.Errorf("lvx run ended: %s", p.Output()))
		default:
		}
		_, err := r.LVX(ctx, name, "status")
		return err
	})
}

// Stop ends a director's daemon as systemd does: nothing of it stays.
func (r *Rig) Stop(name string) error {
	if err := r.Leave(name); err != nil {
		return err
	}
	h := r.Cluster.Host(name)
	_, err := h.Run(context.Background(), r.Self, "purge", "-c", filepath.Join(h.Dir(), "lvx.yaml"))
	return err
}

// Leave ends a director's daemon by SIGTERM alone: the packet path waits for
// a successor.
func (r *Rig) Leave(name string) error {
	p := r.Daemons[name]
	delete(r.Daemons, name)
	return p.Stop()
}

// Kill ends it as nobody should.
func (r *Rig) Kill(name string) {
	r.Daemons[name].Kill()
	delete(r.Daemons, name)
}

// Await polls f until it returns nil, at most for a while.
func Await(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	return testenv.Poll(ctx, f)
}

// LVX runs a command on a director and gives what it printed.
func (r *Rig) LVX(ctx context.Context, name string, args ...string) (string, error) {
	return r.Cluster.Host(name).Run(ctx, append([]string{r.Self}, append(args, "--socket", r.Socket(name))...)...)
}

// HTTP is a client in the client's namespace: a connection of its own for
// every request, as curl has it.
func (r *Rig) HTTP(timeout time.Duration) *http.Client {
	tr := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // the reals sign for themselves
		DialContext:       r.Client.Dial,
	}
	return &http.Client{Transport: tr, Timeout: timeout}
}

// Get asks for a URL and gives the body.
func (r *Rig) Get(url string, timeout time.Duration) (string, error) {
	resp, err := r.HTTP(timeout).Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(body)), err
}

// Curl asks n times and gives the names of those who answered: "r2 r1 r2".
func (r *Rig) Curl(n int, url string) string {
	var names []string
	for range n {
		name, err := r.Get(url, 5*time.Second)
		if err != nil {
			name = Brief(err)
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

const timedOut = "timeout"

// Brief is an error in a word or two: "timeout", "connection refused".
func Brief(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Timeout() || os.IsTimeout(err) {
		return timedOut
	}
	if errors.As(err, &op) {
		return strings.TrimPrefix(op.Err.Error(), "connect: ")
	}
	return err.Error()
}

// Hold opens connections until one reaches the real, and keeps that one. A hash
// that gives every second one to it misses it once in 2^64 times.
func (r *Rig) Hold(real string) (net.Conn, error) { return r.HoldAt(VIP+":80", real) }

// HoldAt is Hold at another address of the VIPs.
func (r *Rig) HoldAt(addr, real string) (net.Conn, error) {
	for range 64 {
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		conn, err := r.Client.Dial(ctx, "tcp", addr)
		cancel()
		if err != nil {
			return nil, err
		}
		if name, err := Ask(conn); err == nil && name == real {
			return conn, nil
		}
		_ = conn.Close()
	}
	return nil, fmt.Errorf("no connection reached %s", real)
}

// Ask sends one request on an open connection and reads who answers.
func Ask(conn net.Conn) (string, error) { return askWithin(conn, Patience) }

func askWithin(conn net.Conn, patience time.Duration) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: rig\r\n\r\n"); err != nil {
		return "", err
	}
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil {
		return "", err
	}
	_, body, _ := strings.Cut(string(buf[:n]), "\r\n\r\n")
	return strings.TrimSpace(body), nil
}

// Logs is the end of every daemon's log.
func (r *Rig) Logs() string {
	var b strings.Builder
	for name, p := range r.Daemons {
		out := p.Output()
		fmt.Fprintf(&b, "\n%s:\n%s", name, out[max(0, len(out)-3000):])
	}
	return b.String()
}
