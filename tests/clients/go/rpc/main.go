// One session over gRPC, by the code that protoc-gen-go makes of the proto files.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"clients/billingv1"
)

func main() {
	if err := session(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func session() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+os.Getenv("BILLING_CALLER_TOKEN"))
	connection, err := grpc.NewClient(os.Getenv("BILLING_GRPC"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	public, internal := billingv1.NewBillingServiceClient(connection), billingv1.NewBillingInternalServiceClient(connection)
	user := os.Getenv("BILLING_USER")

	credited, err := internal.AdjustBalance(ctx, &billingv1.AdjustBalanceRequest{
		UserId: user, Amount: 5, Reason: "a session", AdjustmentId: "credit-1",
	})
	if err != nil || credited.Balance != 5 {
		return fmt.Errorf("credit: %v %v", err, credited)
	}
	account, err := public.GetAccount(ctx, &billingv1.GetAccountRequest{UserId: user})
	if err != nil || account.Balance != 5 || account.Status != "ACTIVE" {
		return fmt.Errorf("account: %v %v", err, account)
	}
	check, err := internal.CheckQuota(ctx, &billingv1.CheckQuotaRequest{UserId: user, ServiceName: "asset", Count: 1010})
	if err != nil || !check.Allowed || check.EstimatedCost != 0.5 {
		return fmt.Errorf("check: %v %v", err, check)
	}

	call := &billingv1.DeductQuotaRequest{UserId: user, ServiceName: "asset", Count: 1010, TraceId: "call-1"}
	first, err := internal.DeductQuota(ctx, call)
	if err != nil || first.PaidCount != 10 || first.Balance != 4.5 || first.Replayed {
		return fmt.Errorf("charge: %v %v", err, first)
	}
	again, err := internal.DeductQuota(ctx, call)
	if err != nil || !again.Replayed || again.RecordId != first.RecordId {
		return fmt.Errorf("replay: %v %v", err, again)
	}

	records, err := public.ListRecords(ctx, &billingv1.ListRecordsRequest{UserId: user})
	if err != nil || records.TotalRecords != 2 || len(records.Records) != 2 {
		return fmt.Errorf("records: %v %v", err, records)
	}

	costly := &billingv1.DeductQuotaRequest{UserId: user, ServiceName: "asset", Count: 100000, TraceId: "call-2"}
	_, err = internal.DeductQuota(ctx, costly)
	if status.Code(err) != codes.FailedPrecondition {
		return fmt.Errorf("refusal: %v", err)
	}
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Metadata["error_code"] == "10001" {
			return nil
		}
	}
	return fmt.Errorf("the refusal has no error code: %v", err)
}
