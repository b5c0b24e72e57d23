//go:build ipvsvm

package fallback

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
)

// noZeros wants replies in a listing of statistics.
func noZeros(text string) error {
	for line := range strings.Lines(text) {
		// Prot LocalAddress:Port Conns InPkts OutPkts InBytes OutBytes
		if f := strings.Fields(line); len(f) == 7 && f[0] == "TCP" && f[2] != "0" && f[4] != "0" && f[6] != "0" {
			return nil
		}
	}
	return fmt.Errorf("no replies are counted:\n%s", text)
}

// has wants a text in another one.
func has(text, part string) error {
	if !strings.Contains(text, part) {
		return fmt.Errorf("no %q in:\n%s", part, text)
	}
	return nil
}

func one(got, want string) error {
	if got != want {
		return fmt.Errorf("got %s, want %s", got, want)
	}
	return nil
}

// everything asks for all that XDP cannot do, beside what it can.
const everything = `interface: eth0
backend: auto
services:
  - name: plain
    listen: ["192.168.79.99:80/tcp"]
    reals: [{address: 192.168.79.27}, {address: 192.168.79.37}]
  - name: nat
    listen: ["192.168.79.99:8080/tcp"]
    forward: nat
    reals: [{address: 192.168.79.27, port: 80}, {address: 192.168.79.37, port: 80}]
  - name: ftp
    listen: ["192.168.79.99:21/tcp"]
    forward: nat
    reals: [{address: 192.168.79.27}]
  - name: tunnel
    listen: ["192.168.79.99:81/tcp"]
    forward: tunnel
    reals: [{address: 192.168.79.27}]
  - name: gue
    listen: ["192.168.79.99:82/tcp"]
    forward: gue
    reals: [{address: 192.168.79.27}, {address: 192.168.79.37, forward: gre, tunnel: {checksum: csum}}]
  - name: thresholds
    listen: ["192.168.79.99:443/tcp"]
    scheduler: wlc
    reals: [{address: 192.168.79.27, upper_threshold: 100, lower_threshold: 50}]
  - name: signalling
    listen: ["192.168.79.99:5060/sctp"]
    scheduler: lblcr
    reals: [{address: 192.168.79.27}]
  - name: six
    listen: ["[2001:db8::99]:80/tcp"]
    reals: [{address: "2001:db8::27"}]
`

// everywhere: each service is where it can run, and status says why.
func everywhere(l *lab) {
	l.run(everything)
	want := map[string]string{
		"plain": "xdp", "nat": "xdp", "ftp": "ipvs: FTP by NAT: its data connections need the kernel's helper", "tunnel": "xdp", "gue": "ipvs: forward gre with csum", "thresholds": "xdp",
		"signalling": "ipvs: scheduler lblcr remembers destinations",
		"six":        "xdp",
	}
	if diff := cmp.Diff(want, l.places()); diff != "" {
		l.Errorf("where the services run (-want +got):\n%s", diff)
	}
	status := l.lvx("status")
	for name, place := range want {
		at := strings.Index(status, name)
		_, why, _ := strings.Cut(place, ": ")
		if at < 0 || !strings.Contains(status, why) {
			l.Errorf("status does not say %s of %s:\n%s", place, name, status)
		}
	}
	l.contains(l.lvx("list", "-n"), "-> 192.168.79.27:80 Masq 1", "-> 192.168.79.27:81 Tunnel 1", "TCP [2001:db8::99]:80", "SCTP 192.168.79.99:5060 lblcr")
	l.contains(l.lvx("list", "-n", "--thresholds"), "-> 192.168.79.27:443 100 50")
	got := strings.Fields(l.curl(4, url))
	slices.Sort(got)
	l.want("through XDP", strings.Join(got, " "), "rs1 rs1 rs2 rs2")
}

// moving: a reload moves a service to the other backend and back. New
// connections are served all the time, and one that is open goes on.
func moving(l *lab) {
	l.run("backend: auto\n" + example(l.T, "002-dr"))
	open := l.hold(vip)
	name := open.ask()
	for _, to := range []struct{ old, new, place string }{
		{`:80/tcp"]`, `:80/tcp", "192.168.79.99:5060/sctp"]`, "ipvs: SCTP listener 192.168.79.99:5060/sctp"},
		{`:80/tcp", "192.168.79.99:5060/sctp"]`, `:80/tcp"]`, "xdp"},
	} {
		l.edit(to.old, to.new)
		l.want("where it runs", l.places()["web"], to.place)
		got := strings.Fields(l.curl(4, url))
		slices.Sort(got)
		l.want("4 requests on "+to.place, strings.Join(got, " "), "rs1 rs1 rs2 rs2")
		l.want("the open connection on "+to.place, open.ask(), name)
	}
}

// A connection is one that stays open.
type connection struct {
	*lab
	conn net.Conn
	read *bufio.Reader
}

func (l *lab) hold(to string) *connection {
	l.Helper()
	conn, err := l.client.Dial(l.Context(), "tcp", to+":80")
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = conn.Close() })
	return &connection{lab: l, conn: conn, read: bufio.NewReader(conn)}
}

// ask sends one more request and gives the name of who answered.
func (c *connection) ask() string {
	c.Helper()
	_ = c.conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := fmt.Fprintf(c.conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", vip); err != nil {
		c.Fatal(err)
	}
	resp, err := http.ReadResponse(c.read, nil)
	if err != nil {
		c.Fatal(err)
	}
	defer resp.Body.Close()
	name, err := bufio.NewReader(resp.Body).ReadString('\n')
	if err != nil {
		c.Fatal(err)
	}
	return strings.TrimSpace(name)
}
