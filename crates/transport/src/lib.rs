//! Peers over gRPC: calls, lanes of published messages, snapshots.
