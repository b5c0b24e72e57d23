package connsync

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
)

// Who has no session is told why in words, and what to do where the network is not why.
func TestWhyThereIsNoSession(t *testing.T) {
	port := freePort(t)
	ma := start(t, port, newMemory(), one, []Key{keyA}, two, three)
	says := func(i int, why, cure string) {
		t.Helper()
		eventually(t, why, func() bool { st := ma.Status()[i]; return !st.IsUp && st.Reason == why && st.Cure == cure })
	}
	start(t, port, newMemory(), three, []Key{keyB}, one)
	says(1, "the peer holds none of our keys", "compare sync.key_file on both directors")

	ctx, stop := context.WithCancel(t.Context())
	mb, err := NewMesh(Options{Local: []netip.Addr{two}, Peers: []netip.Addr{one}, Port: port, Keys: []Key{keyA}, Table: newMemory(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- mb.Run(ctx) }()
	eventually(t, "a session", func() bool { return ma.Status()[0].IsInSync })
	s := ma.peers[two].current()
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	<-s.ended
	eventually(t, "the reason", func() bool { return ma.peers[two].current() == nil })
	if st := ma.Status()[0]; st.Cure != "" || strings.Contains(st.Reason, "EOF") {
		t.Errorf("a peer that has stopped: %q, cure %q", st.Reason, st.Cure)
	}

	start(t, port, newMemory(), two, []Key{keyA}, netip.MustParseAddr("127.0.0.5"))
	says(0, "the peer closes the connection at once", "is this host's address in its sync.peers, and the key in its key file?")
}
